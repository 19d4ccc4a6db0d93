//! How many connections there are from each address, so that no one machine takes all the places.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::server::limits::Limits;
use crate::server::metrics;

/// The connections of each address. Those of this machine itself are not counted.
#[derive(Debug)]
pub struct Addresses {
    /// How many each may have; `None` when nobody counts.
    most: Option<usize>,
    /// How many more it may have to be told that these are too many.
    answers: usize,
    counts: Mutex<HashMap<IpAddr, Count>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    inside: usize,
    answered: usize,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub struct Counted {
    /// There are too many from its address already, and it is to be told so.
    pub too_many: bool,
    /// Where it is counted, if it is.
    at: Option<(Arc<Addresses>, IpAddr)>,
}

impl Addresses {
    /// No connections yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            most: limits.per_address,
            answers: limits.answers,
            counts: Mutex::default(),
        })
    }

    /// Counts one more connection. `None` when there are so many that they cannot even be told.
    #[must_use]
    pub fn count(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let address = counted_as(address);
        let Some(most) = self.most.filter(|_| !address.is_loopback()) else {
            return Some(Counted {
                too_many: false,
                at: None,
            });
        };
        let mut counts = self.counts();
        let mut count = counts.get(&address).copied().unwrap_or_default();
        let too_many = count.inside >= most;
        if too_many && count.answered >= self.answers {
            metrics::turned_away();
            return None;
        }
        *count.of(too_many) += 1;
        counts.insert(address, count);
        Some(Counted {
            too_many,
            at: Some((self.clone(), address)),
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, Count>> {
        // A panic elsewhere does not matter here: none can happen while this lock is held.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn of(&mut self, too_many: bool) -> &mut usize {
        if too_many {
            &mut self.answered
        } else {
            &mut self.inside
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some((addresses, address)) = &self.at else {
            return;
        };
        let mut counts = addresses.counts();
        let Some(count) = counts.get_mut(address) else {
            return;
        };
        *count.of(self.too_many) -= 1;
        if *count == Count::default() {
            counts.remove(address);
            if counts.is_empty() {
                // An empty server is as small as before.
                counts.shrink_to_fit();
            }
        }
    }
}

/// What an address is counted as. A machine usually has all addresses of a /64 of IPv6 (RFC 6177),
/// and an IPv4 address may be written as one of IPv6.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            const HOST: u128 = u64::MAX as u128;
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !HOST))
        }
        address => address,
    }
}
