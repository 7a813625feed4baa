//! The running kernel's reasons for sending an RST, from its BTF.

use std::collections::BTreeMap;

use observer_core::btf::KernelBtf;

const ENUM: &str = "sk_rst_reason";
const PREFIX: &str = "SK_RST_REASON_";

/// The enumerators of `enum sk_rst_reason` by number, without their common prefix. Empty before
/// 6.10.
#[must_use]
pub fn reset_reasons(btf: &KernelBtf) -> BTreeMap<u32, String> {
    let reasons = btf.enumerators(ENUM).unwrap_or_default();
    reasons
        .into_iter()
        .filter_map(|(name, number)| {
            let name = name.strip_prefix(PREFIX)?;
            // The last one is the number of reasons.
            let is_reason = name != "MAX";
            Some((u32::try_from(number).ok()?, name.to_owned())).filter(|_| is_reason)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use observer_core::btf::fixture::Writer;

    use super::*;

    #[test]
    fn takes_the_reasons_and_nothing_else() {
        let mut writer = Writer::new();
        let enumerators = [
            ("SK_RST_REASON_NOT_SPECIFIED", 0),
            ("SK_RST_REASON_TCP_STATE", 14),
            ("UNRELATED", 2),
            ("SK_RST_REASON_MAX", 15),
        ];
        writer.enumeration(ENUM, &enumerators, false);
        let reasons = reset_reasons(&writer.parse());
        let expected = [(0, "NOT_SPECIFIED"), (14, "TCP_STATE")];
        let expected = expected.map(|(number, name)| (number, name.to_owned()));
        assert_eq!(reasons, expected.into());
    }

    #[test]
    fn kernels_without_the_enum_have_none() {
        assert!(reset_reasons(&Writer::new().parse()).is_empty());
    }
}
