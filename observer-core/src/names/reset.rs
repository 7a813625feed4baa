//! The reasons of RSTs sent and received, as label values.

use std::{borrow::Cow, collections::BTreeMap};

use observer_common::{RESET_CLASSES_FROM, reset_class_name, reset_received_name};

/// The running kernel's reset reasons. Their numbers differ between kernels: 6.12 put those
/// of active resets in front of those of MPTCP. Empty before 6.10.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetReasons {
    by_number: BTreeMap<u32, String>,
}

impl ResetReasons {
    /// The reasons of the kernel's `enum sk_rst_reason` by number, without their common prefix:
    /// `TCP_STATE`.
    #[must_use]
    pub fn new(by_number: BTreeMap<u32, String>) -> Self {
        Self { by_number }
    }

    /// The label value of an index of [`observer_common::ResetCounters::sent`]. Not unique: if
    /// one of our classes means the same as a reason of the kernel, both have the same name, and their
    /// counts have to be summed.
    #[must_use]
    pub fn name(&self, index: u32) -> Cow<'_, str> {
        let name = match index < RESET_CLASSES_FROM {
            true => self.by_number.get(&index).map(String::as_str),
            false => reset_class_name(index),
        };
        match name {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("REASON_{index}")),
        }
    }

    /// Whether the kernel gives no reasons.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}

/// The label value of an index of [`observer_common::ResetCounters::received`]: the state of the
/// connection when the RST arrived.
#[must_use]
pub fn received_reset_name(index: u32) -> Cow<'static, str> {
    match u8::try_from(index).ok().and_then(reset_received_name) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(format!("REASON_{index}")),
    }
}

#[cfg(test)]
mod tests {
    use observer_common::{RESET_NO_SOCKET, RESET_OTHER, RESET_UNREAD_DATA, RESETS_SENT};
    use proptest::prelude::*;

    use super::*;

    fn sample() -> ResetReasons {
        let reasons = [
            (0, "NOT_SPECIFIED"),
            (1, "NO_SOCKET"),
            (14, "TCP_STATE"),
            (48, "BEYOND"),
        ];
        let by_number = reasons.map(|(number, name)| (number, name.to_owned()));
        ResetReasons::new(by_number.into())
    }

    #[test]
    fn names_by_the_running_kernel() {
        let reasons = sample();
        assert_eq!(reasons.name(0), "NOT_SPECIFIED");
        assert_eq!(reasons.name(14), "TCP_STATE");
        assert_eq!(reasons.name(2), "REASON_2");
        assert_eq!(reasons.name(15), "REASON_15");
    }

    #[test]
    fn classes_do_not_depend_on_the_kernel() {
        for reasons in [sample(), ResetReasons::default()] {
            assert_eq!(
                reasons.name(RESET_UNREAD_DATA),
                reset_class_name(48).unwrap()
            );
            assert_eq!(reasons.name(RESET_NO_SOCKET), "NO_SOCKET");
            assert_eq!(reasons.name(RESET_OTHER), "OTHER");
            assert_eq!(reasons.name(RESET_OTHER + 2), "REASON_62");
        }
    }

    #[test]
    fn kernels_without_reasons_have_none() {
        let reasons = ResetReasons::default();
        assert!(reasons.is_empty());
        assert_eq!(reasons.name(0), "REASON_0");
    }

    #[test]
    fn names_received_resets_by_state() {
        assert_eq!(
            received_reset_name(u32::from(observer_common::SYN_SENT)),
            "REFUSED"
        );
        assert_eq!(received_reset_name(0), "REASON_0");
        assert_eq!(received_reset_name(256 + 2), "REASON_258");
    }

    proptest! {
        #[test]
        fn every_index_has_a_name(index: u32) {
            prop_assert!(!sample().name(index).is_empty());
            prop_assert!(!received_reset_name(index).is_empty());
        }

        #[test]
        fn every_counter_has_a_name(index in 0..RESETS_SENT as u32) {
            prop_assert!(!sample().name(index).is_empty());
        }
    }
}
