//! Starts that fail: clearly, and before anything is written to disk.

use std::net::{TcpListener, UdpSocket};

use crate::cluster::{Place, address, folder};
use crate::folders::assert_says;
use crate::turn;

/// What holds a port.
#[expect(dead_code, reason = "held, not used")]
enum Holder {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named_with_its_setting_and_nothing_is_written() {
    let _turn = turn::shared().await;
    let dir = folder();
    let place = Place::new(dir.path(), address(1), 0);
    let cases = [
        (place.client, "TCP", "listen.client"),
        (place.internal, "TCP", "listen.internal"),
        (place.internal, "UDP", "listen.internal"),
        (place.admin, "TCP", "listen.admin"),
    ];
    for (at, protocol, setting) in cases {
        let holder = match protocol {
            "UDP" => Holder::Udp(UdpSocket::bind(at).unwrap()),
            _ => Holder::Tcp(TcpListener::bind(at).unwrap()),
        };
        let (code, said) = place.refuses().await;
        assert_eq!(code, 1);
        let parts = [&at.to_string(), protocol, setting, "another process has this port"];
        assert_says(&said, &parts);
        assert!(!place.data.exists(), "something was written: {said}");
        drop(holder);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistyped_setting_is_led_to_the_nearest_one_and_nothing_is_written() {
    let _turn = turn::shared().await;
    let dir = folder();
    let mut place = Place::new(dir.path(), address(1), 0);
    let cases = [
        ("[storage]\ndurabilty = \"fsync\"\n", ["storage.durabilty", "`storage.durability`"]),
        ("[storage]\ndurability = \"often\"\n", ["storage.durability", "often"]),
        ("[limits]\nvalue_bytes = \"1 GiB\"\n", ["limits.value_bytes", "1 GiB"]),
        ("[storage]\n= 7\n", ["node-0.toml", "not valid TOML"]),
    ];
    for (more, parts) in cases {
        more.clone_into(&mut place.more);
        let (code, said) = place.refuses().await;
        assert_eq!(code, 2, "{said}");
        assert_says(&said, &parts);
        assert_says(&said, &["the configuration cannot be used"]);
        assert!(!place.data.exists(), "something was written: {said}");
    }
    place.more.clear();
    place.config = dir.path().join("absent.toml");
    let said = crate::process::coterie(&["serve", "--config", "/nowhere/absent.toml"]).await;
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert_says(&said.err, &["/nowhere/absent.toml"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bind_beyond_loopback_is_refused_until_the_network_is_said_to_be_trusted() {
    let _turn = turn::shared().await;
    let dir = folder();
    let mut place = Place::new(dir.path(), address(1), 0);
    place.admin.set_ip([0, 0, 0, 0].into());
    let (code, said) = place.refuses().await;
    assert_eq!(code, 2);
    assert_says(&said, &["listen.admin", "listen.insecure"]);
    assert!(!place.data.exists());
}
