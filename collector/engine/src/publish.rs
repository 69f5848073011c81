//! Gives what the loop tells to subscribers, and never waits for one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use huddle_model::update::Update;
use huddle_model::view::View;
use tokio::sync::broadcast::{self, error::RecvError};

/// Where the loop's steps are published, each as a `T`: the step itself, or what is made of it once for all
/// subscribers. It keeps the view of everything published so far, with which a subscriber begins.
#[derive(Debug)]
pub struct Publisher<T> {
    view: Arc<Mutex<Option<View>>>,
    sender: broadcast::Sender<T>,
}

/// Somebody who follows the loop.
#[derive(Debug)]
pub struct Subscriber<T> {
    view: Arc<Mutex<Option<View>>>,
    receiver: broadcast::Receiver<T>,
    /// What is there already at the begin.
    begin: Option<View>,
}

/// One thing that a subscriber gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery<T> {
    /// The whole view: at the begin, and where the subscriber fell behind. What follows is to be added to it.
    View {
        /// What was published so far.
        view: Box<View>,
        /// Steps that the subscriber did not get one by one.
        missed: u64,
    },
    /// What was published next.
    Next(T),
}

impl<T: Clone> Publisher<T> {
    /// Nothing was published yet. A subscriber that is more than `most_behind` steps behind (1 or more) gets
    /// a whole view instead of them.
    pub fn new(most_behind: usize) -> Self {
        Self { view: Arc::default(), sender: broadcast::Sender::new(most_behind.max(1)) }
    }

    /// What was published so far.
    pub fn view(&self) -> Option<View> {
        lock(&self.view).clone()
    }

    /// Publishes the updates of a step in the form of `message`.
    pub fn publish(&self, updates: &[Update], message: T) {
        // Under the lock, so that no subscriber begins between the view and the message.
        let mut view = lock(&self.view);
        View::follow(&mut view, updates);
        // An error says that nobody subscribes.
        let _ = self.sender.send(message);
    }

    /// Takes updates over if nobody subscribes now; false if somebody does, and then they are to be
    /// published: the message need not be made for nobody.
    pub fn skip(&self, updates: &[Update]) -> bool {
        let mut view = lock(&self.view);
        let is_unheard = self.sender.receiver_count() == 0;
        if is_unheard {
            View::follow(&mut view, updates);
        }
        is_unheard
    }

    /// Somebody who gets the view as it is now, if there is one, and everything from now on.
    pub fn subscribe(&self) -> Subscriber<T> {
        let view = lock(&self.view);
        Subscriber { view: Arc::clone(&self.view), receiver: self.sender.subscribe(), begin: view.clone() }
    }
}

impl<T: Clone> Subscriber<T> {
    /// What comes next; `None` when nothing will be published any more. Waiting can be given up at any time,
    /// and nothing is lost.
    pub async fn next(&mut self) -> Option<Delivery<T>> {
        if let Some(view) = self.begin.take() {
            return Some(Delivery::View { view: Box::new(view), missed: 0 });
        }
        loop {
            match self.receiver.recv().await {
                Ok(message) => return Some(Delivery::Next(message)),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(missed)) => {
                    let view = lock(&self.view);
                    // What still lies in the channel is in the view.
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

/// No holder of the lock can leave half a change behind that matters: a view without its last update is one.
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
            Delivery::View { view: whole, missed } => {
                *view = Some(*whole);
                Some(missed)
            }
            Delivery::Next(step) => {
                View::follow(view, &step[..]);
                Some(0)
            }
        }
    }

    #[tokio::test]
    async fn whoever_comes_and_however_late_sees_the_same() {
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
        assert_eq!(take(&mut stuck.0, &mut stuck.1).await, Some(9), "all of them, told as one view");
        assert_eq!(stuck.1, publisher.view());
        publish(&publisher, &steps[..1]);
        assert_eq!(take(&mut stuck.0, &mut stuck.1).await, Some(0), "and then one by one again");
        drop(publisher);
        assert_eq!(take(&mut stuck.0, &mut stuck.1).await, None);
    }

    #[test]
    fn nothing_is_made_for_nobody() {
        let step = &steps(1)[0];
        let publisher: Publisher<()> = Publisher::new(3);
        assert!(publisher.skip(step));
        assert_eq!(publisher.view().map(|view| view.round.number), Some(1));
        let _subscriber = publisher.subscribe();
        assert!(!publisher.skip(step));
    }
}
