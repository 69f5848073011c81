//! Publishes the steps of the loop to subscribers, and never waits for one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use huddle_model::update::Update;
use huddle_model::view::View;
use tokio::sync::broadcast::{self, error::RecvError};

/// Publishes the loop's steps, each as a message of type `T`: the step itself, or an encoding of it that is made once
/// for all subscribers. It keeps the view of everything published so far, with which a subscriber begins.
#[derive(Debug)]
pub struct Publisher<T> {
    view: Arc<Mutex<Option<View>>>,
    sender: broadcast::Sender<T>,
}

/// A receiver of everything that is published.
#[derive(Debug)]
pub struct Subscriber<T> {
    view: Arc<Mutex<Option<View>>>,
    receiver: broadcast::Receiver<T>,
    /// The view at the time of subscription, until it is delivered.
    initial: Option<View>,
}

/// One message to a subscriber.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery<T> {
    /// The complete view: at the begin, and when the subscriber fell behind. Later updates are to be applied to it.
    View {
        /// What was published so far.
        view: Box<View>,
        /// Steps that the subscriber missed.
        missed: u64,
    },
    /// The next message.
    Next(T),
}

impl<T: Clone> Publisher<T> {
    /// Nothing is published yet. A subscriber that is more than `max_lag` steps behind (1 or more) gets a complete
    /// view instead of them.
    pub fn new(max_lag: usize) -> Self {
        Self { view: Arc::default(), sender: broadcast::Sender::new(max_lag.max(1)) }
    }

    /// The view of everything published so far.
    pub fn view(&self) -> Option<View> {
        lock(&self.view).clone()
    }

    /// Publishes the updates of a step in the form of `message`.
    pub fn publish(&self, updates: &[Update], message: T) {
        // Under the lock, so that no subscriber begins between the view and the message.
        let mut view = lock(&self.view);
        View::follow(&mut view, updates);
        // An error means that there is no subscriber.
        let _ = self.sender.send(message);
    }

    /// Applies updates to the view if there is no subscriber, so that no message need be made. False if there is one:
    /// then the updates have to be published.
    pub fn skip(&self, updates: &[Update]) -> bool {
        let mut view = lock(&self.view);
        let has_no_subscriber = self.sender.receiver_count() == 0;
        if has_no_subscriber {
            View::follow(&mut view, updates);
        }
        has_no_subscriber
    }

    /// A new subscriber, which gets the current view, if there is one, and everything from now on.
    pub fn subscribe(&self) -> Subscriber<T> {
        let view = lock(&self.view);
        Subscriber { view: Arc::clone(&self.view), receiver: self.sender.subscribe(), initial: view.clone() }
    }
}

impl<T: Clone> Subscriber<T> {
    /// The next message; `None` when the publisher is gone. Cancel safe: a dropped future loses nothing.
    pub async fn next(&mut self) -> Option<Delivery<T>> {
        if let Some(view) = self.initial.take() {
            return Some(Delivery::View { view: Box::new(view), missed: 0 });
        }
        loop {
            match self.receiver.recv().await {
                Ok(message) => return Some(Delivery::Next(message)),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(missed)) => {
                    let view = lock(&self.view);
                    // The messages still in the channel are part of the view.
                    let missed = missed + self.receiver.len() as u64;
                    self.receiver = self.receiver.resubscribe();
                    if let Some(view) = view.clone() {
                        return Some(Delivery::View { view: Box::new(view), missed });
                    }
                }
            }
        }
    }
}

/// Ignores poisoning: a view that lacks its last update is still a valid one.
fn lock(view: &Mutex<Option<View>>) -> MutexGuard<'_, Option<View>> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use huddle_model::update::Step;

    use super::*;

    /// Steps of a loop, one a round.
    fn steps(rounds: u64) -> Vec<Step> {
        let view = |round| huddle_testing::sample::view(round, 2);
        let step = |round| view(round).updates_since((round > 1).then(|| view(round - 1)).as_ref()).into();
        (1..=rounds).map(step).collect()
    }

    fn publish(publisher: &Publisher<Step>, steps: &[Step]) {
        steps.iter().for_each(|step| publisher.publish(step, Arc::clone(step)));
    }

    async fn take(subscriber: &mut Subscriber<Step>, view: &mut Option<View>) -> Option<u64> {
        match subscriber.next().await? {
            Delivery::View { view: complete, missed } => {
                *view = Some(*complete);
                Some(missed)
            }
            Delivery::Next(step) => {
                View::follow(view, &step[..]);
                Some(0)
            }
        }
    }

    #[tokio::test]
    async fn early_late_and_slow_subscribers_see_the_same() {
        let steps = steps(9);
        let publisher = Publisher::new(3);
        let mut early = (publisher.subscribe(), None);
        let mut stuck = (publisher.subscribe(), None);
        publish(&publisher, &steps[..2]);
        let mut late = (publisher.subscribe(), None);
        assert_eq!(take(&mut late.0, &mut late.1).await, Some(0));
        for step in &steps[2..] {
            publish(&publisher, std::slice::from_ref(step));
            for (subscriber, view) in [&mut early, &mut late] {
                while view.as_ref() != publisher.view().as_ref() {
                    assert_eq!(take(subscriber, view).await, Some(0));
                }
            }
        }
        assert_eq!(take(&mut stuck.0, &mut stuck.1).await, Some(9), "all of them, as one view");
        assert_eq!(stuck.1, publisher.view());
        publish(&publisher, &steps[..1]);
        assert_eq!(take(&mut stuck.0, &mut stuck.1).await, Some(0), "and then one by one again");
        drop(publisher);
        assert_eq!(take(&mut stuck.0, &mut stuck.1).await, None);
    }

    #[test]
    fn without_a_subscriber_no_message_is_needed() {
        let step = &steps(1)[0];
        let publisher: Publisher<()> = Publisher::new(3);
        assert!(publisher.skip(step));
        assert_eq!(publisher.view().map(|view| view.round.number), Some(1));
        let _subscriber = publisher.subscribe();
        assert!(!publisher.skip(step));
    }
}
