//! Operators' orders on their way to the control core, and the answers back.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::gossip::Mailbox;
use crate::protocol::control::{Agreed, ControlInput, Order, OrderId, Refusal};

/// Orders that wait for their answer. The core works on one at a time and refuses others at once, so
/// that there are as many as there are callers within one turn of its loop.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    count: u64,
    callers: BTreeMap<OrderId, oneshot::Sender<Result<Agreed, Refusal>>>,
}

impl Orders {
    /// Hands an order in, and waits for its answer.
    pub(super) async fn give(&self, order: Order, mailbox: &Mailbox) -> Result<Agreed, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.count += 1;
            let id = OrderId(waiting.count);
            waiting.callers.insert(id, sender);
            id
        };
        mailbox.input(ControlInput::Order(id, order));
        let stopped = || Err(Refusal::NotReady("it is stopping".into()));
        receiver.await.unwrap_or_else(|_| stopped())
    }

    /// An order's answer. Whoever gave it may have gone.
    pub(super) fn answer(&self, id: OrderId, answer: Result<Agreed, Refusal>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = waiting.callers.remove(&id) {
            let _ = caller.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_finds_whoever_gave_the_order() {
        let (orders, (mailbox, _letters)) = (Orders::default(), Mailbox::new());
        let order = || Order::Decommission(crate::types::NodeName::new("a").unwrap());
        let answers = async {
            orders.answer(OrderId(2), Err(Refusal::NotReady("x".into())));
            orders.answer(OrderId(1), Err(Refusal::Busy));
            orders.answer(OrderId(1), Ok(Agreed { placement: None }));
        };
        let (first, second, ()) =
            tokio::join!(orders.give(order(), &mailbox), orders.give(order(), &mailbox), answers);
        assert_eq!(first, Err(Refusal::Busy));
        assert_eq!(second, Err(Refusal::NotReady("x".into())));
    }
}
