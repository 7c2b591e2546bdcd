//! User-defined inits, by name.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{PoisonError, RwLock};

use super::method::InitMethod;

static REGISTRY: RwLock<Vec<Registered>> = RwLock::new(Vec::new());

/// A user-defined init, which lives until the process ends. Two are equal if their names are.
#[derive(Clone, Copy)]
pub struct Registered(&'static dyn InitMethod);

impl Registered {
    pub(super) fn method(self) -> &'static dyn InitMethod {
        self.0
    }
}

/// Adds a method; `None` if its name is registered already.
pub(super) fn add(method: Box<dyn InitMethod>) -> Option<Registered> {
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    if registry.iter().any(|known| known.0.name() == method.name()) {
        return None;
    }
    let registered = Registered(Box::leak(method));
    registry.push(registered);
    Some(registered)
}

/// The method of that name.
pub(super) fn find(name: &str) -> Option<Registered> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.iter().copied().find(|known| known.0.name() == name)
}

/// The names of all, in the order of their registration.
pub(super) fn names() -> Vec<&'static str> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.iter().map(|known| known.0.name()).collect()
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl PartialEq for Registered {
    fn eq(&self, other: &Registered) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for Registered {}

impl PartialOrd for Registered {
    fn partial_cmp(&self, other: &Registered) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Registered {
    fn cmp(&self, other: &Registered) -> Ordering {
        self.0.name().cmp(other.0.name())
    }
}

impl Hash for Registered {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}
