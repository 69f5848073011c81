use super::*;

proptest::proptest! {
    /// The one comparison leaves out no access that touches the kept line.
    #[test]
    fn no_access_to_the_kept_line_is_left_out(line in 0..64u8, address: u64, size_shift in 0..5u32) {
        let line = KeptLine::new(line).unwrap_or_else(|| unreachable!());
        let touched = (0..1 << size_shift).any(|byte| {
            let byte = address.wrapping_add(byte);
            byte & (PAGE_BYTES - LINE_BYTES) == line.offset_bytes()
        });
        let may = may_touch(address, first(line));
        proptest::prop_assert!(may || !touched);
        // And few others: those that begin less than the largest access before it.
        let begins_within = address.wrapping_sub(first(line)) & (PAGE_BYTES - 1);
        proptest::prop_assert_eq!(may, begins_within < LINE_BYTES + MOST_ACCESS_BYTES - 1);
    }
}

#[test]
fn one_of_52_accesses_is_looked_at_closer() {
    let first = first(KeptLine::new(17).unwrap_or_else(|| unreachable!()));
    assert_eq!((0..PAGE_BYTES).filter(|address| may_touch(*address, first)).count(), 79);
}
