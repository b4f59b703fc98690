//! Health and reflection: what makes grpcurl and every other client work at once.

use std::time::Duration;

use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::fake::{Fake, Server};

async fn channel(server: &Server) -> Channel {
    Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn health_follows_readiness() {
    let node = Fake::default();
    let server = node.serve().await;
    let mut health = HealthClient::new(channel(&server).await);
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut watch = health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    for service in ["", "coterie.v1.Kv", "coterie.v1.Admin"] {
        let answer = health.check(of(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    assert_eq!(health.check(of("another")).await.unwrap_err().code(), Code::NotFound);

    node.state.lock().unwrap().not_ready = Some("it starts".to_owned());
    let answer = health.check(of("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    let change = tokio::time::timeout(Duration::from_secs(3), watch.message()).await.unwrap();
    assert_eq!(change.unwrap().unwrap().status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn both_versions_of_reflection_name_the_services() {
    let server = Fake::default().serve().await;
    let channel = channel(&server).await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("not a list: {answer:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|service| &service.name[..]).collect();
    for name in ["coterie.v1.Kv", "coterie.v1.Admin", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let symbol = "coterie.v1.SetRequest".to_owned();
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol),
        ),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(
        answer,
        v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)
    ));
}
