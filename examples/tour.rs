//! A tour of the client: single keys, causality, batches, scans.
//!
//! ```text
//! coterie local                        # in another terminal
//! cargo run --example tour             # or: cargo run --example tour -- HOST:PORT …
//! ```

use anyhow::Context as _;
use coterie::client::{Client, Options, ReadOptions, ScanOptions, SetEntry, WriteOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut addresses: Vec<String> = std::env::args().skip(1).collect();
    if addresses.is_empty() {
        addresses.push("127.0.0.1:7400".to_owned());
    }
    // One address is enough: the client learns the others.
    let client = Client::connect(addresses, Options::default())?;
    single_keys(&client).await.context("single keys")?;
    shopping_cart(&client).await.context("the shopping cart")?;
    many_keys(&client).await.context("many keys")?;
    Ok(())
}

async fn single_keys(client: &Client) -> anyhow::Result<()> {
    let written = client.set("tour/greeting", "hello").await?;
    println!("written to {}", written.receipt.homes.join(" and "));
    let got = client.get("tour/greeting").await?.context("it was written")?;
    println!("read: {}", String::from_utf8_lossy(&got.value));
    client.delete("tour/greeting").await?;
    anyhow::ensure!(client.get("tour/greeting").await?.is_none(), "it was deleted");
    Ok(())
}

/// Two writers change a cart at the same time. Neither change is lost: both are kept as siblings,
/// until somebody who has seen both writes what they mean together.
async fn shopping_cart(client: &Client) -> anyhow::Result<()> {
    client.set("tour/cart", "apples").await?;
    let seen = client.get("tour/cart").await?.context("it was written")?;
    let after = WriteOptions { context: seen.context, ..WriteOptions::default() };
    client.set_with("tour/cart", "apples, pears", &after).await?;
    client.set_with("tour/cart", "apples, plums", &after).await?;

    let all = ReadOptions { all_siblings: true, ..ReadOptions::default() };
    let both = client.get_with("tour/cart", &all).await?;
    anyhow::ensure!(both.all.len() == 2, "two concurrent values, not {}", both.all.len());
    let mut things: Vec<String> = both
        .all
        .iter()
        .flat_map(|sibling| {
            let text = String::from_utf8_lossy(&sibling.value).into_owned();
            text.split(", ").map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    things.sort();
    things.dedup();
    let after = WriteOptions { context: both.context, ..WriteOptions::default() };
    client.set_with("tour/cart", things.join(", "), &after).await?;

    let settled = client.get("tour/cart").await?.context("it was written")?;
    anyhow::ensure!(settled.siblings == 0, "one value is left");
    println!("the cart: {}", String::from_utf8_lossy(&settled.value));
    Ok(())
}

/// Batches and scans. Each key of a batch succeeds or fails by itself.
async fn many_keys(client: &Client) -> anyhow::Result<()> {
    let entries =
        (0..1000).map(|i| SetEntry::set(format!("tour/user/{i:03}"), format!("user {i}")));
    for written in client.set_many(entries).await {
        written?;
    }
    let some = ["tour/user/007", "tour/user/042", "tour/nobody"];
    for (key, got) in some.iter().zip(client.get_many(some).await) {
        match got? {
            Some(got) => println!("{key}: {}", String::from_utf8_lossy(&got.value)),
            None => println!("{key}: absent"),
        }
    }
    let options = ScanOptions { prefix: "tour/user/".into(), ..ScanOptions::default() };
    let (mut scan, mut keys) = (client.scan(options), 0);
    while let Some(page) = scan.next().await? {
        keys += page.entries.len();
    }
    anyhow::ensure!(keys == 1000, "the scan showed {keys} keys");
    println!("the scan showed {keys} keys");
    Ok(())
}
