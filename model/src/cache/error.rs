//! What is wrong with a cache model, a sampling, placements or a stream.

use super::MAX_GROUPS;

/// A value that no simulation can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// No name.
    #[error("the cache model has no name; give it one, as name = \"E5-2680\"")]
    NoName,
    /// No domains, or more than anybody has.
    #[error("domains = {0} in a cache model; give 1 to {most}", most = super::model::MAX_DOMAINS)]
    Domains(u32),
    /// A line of an odd size.
    #[error("line_bytes = {0} in a cache model; a line has 32, 64, 128 or 256 bytes")]
    Line(u32),
    /// No ways, or too many.
    #[error("ways = {ways} of the {cache} cache; give 1 to {most}")]
    Ways {
        /// `shared` or `private`.
        cache: &'static str,
        /// The number given.
        ways: u32,
        /// The largest that can be simulated.
        most: u32,
    },
    /// Not a whole number of sets.
    #[error(
        "size_bytes = {size_bytes} of the {cache} cache is no multiple of {ways} ways of {line_bytes} bytes; \
         size, ways and line do not fit together"
    )]
    Size {
        /// `shared` or `private`.
        cache: &'static str,
        /// The size given.
        size_bytes: u64,
        /// Its ways.
        ways: u32,
        /// Bytes of a line.
        line_bytes: u32,
    },
    /// More lines than can be numbered.
    #[error("size_bytes = {size_bytes} of the {cache} cache is above {most}, the most that is simulated")]
    TooLarge {
        /// `shared` or `private`.
        cache: &'static str,
        /// The size given.
        size_bytes: u64,
        /// The largest size.
        most: u64,
    },
    /// A private cache whose sets cannot be chosen by bits of the address.
    #[error("the private cache has {0} sets; its size must give a power of two")]
    PrivateSets(u64),
    /// A private cache that is no smaller than the shared one.
    #[error("the private cache ({private} bytes) is not smaller than the shared one ({shared} bytes)")]
    PrivateSize {
        /// Size of the private cache, in bytes.
        private: u64,
        /// Size of the shared cache, in bytes.
        shared: u64,
    },
    /// Inclusion of nothing.
    #[error(
        "inclusion = \"{0}\" says how the shared cache relates to a private level, and there is none; \
         give [private], or inclusion = \"non_inclusive\""
    )]
    NoPrivate(&'static str),
    /// A tree that is not complete.
    #[error("tree_plru needs a power of two of ways, and the {cache} cache has {ways}")]
    Tree {
        /// `shared` or `private`.
        cache: &'static str,
        /// Its ways.
        ways: u32,
    },
    /// No policy of this name.
    #[error(
        "replacement = \"{0}\" is not known; give lru, tree_plru, mru, mru_n, or a QLRU variant by its name, as \
         qlru_h11_m1_r0_u0"
    )]
    Replacement(String),
    /// Slices that do not divide the sets.
    #[error(
        "{masks} slice_masks make {slices} slices, and {sets} sets cannot be divided into so many equal powers of two"
    )]
    Slices {
        /// Number of masks.
        masks: usize,
        /// Slices they choose from.
        slices: u64,
        /// Sets of the cache.
        sets: u64,
    },
    /// A mask of address bits within a line.
    #[error("the slice mask {0:#x} has bits below the size of a line, or none at all")]
    SliceMask(u64),
    /// The kernel does not say how the cache is built.
    #[error("the host does not report the {0} of its level {1} cache; describe the cache in a file")]
    UnknownOfHost(&'static str, u8),
    /// The host has no cache that could be simulated.
    #[error("the host reports no cache with data at level {0}; describe the cache in a file")]
    NoHostCache(u8),
    /// Domains with caches that differ.
    #[error(
        "the caches of the domains differ ({first} and {second}); describe one in a file, for all domains"
    )]
    DifferentCaches {
        /// One of them.
        first: String,
        /// Another one.
        second: String,
    },
    /// A factor that is not a power of two or above the number of sets.
    #[error(
        "sampling one of {fold} sets; give a power of two from 1 to {most}, the sets by which both levels divide"
    )]
    Fold {
        /// The factor given.
        fold: u32,
        /// The largest for this model.
        most: u64,
    },
    /// A line that is none of so many.
    #[error("line {line} of {fold} neighbouring ones is to be kept; give one from 0 and below {fold}")]
    KeptLine {
        /// The line given.
        line: u32,
        /// The factor.
        fold: u32,
    },
    /// Nothing to simulate.
    #[error("no placement to simulate; give at least one")]
    NoPlacement,
    /// A placement without vCPUs.
    #[error("the placement {0} places no vCPU")]
    EmptyPlacement(String),
    /// A placement of other vCPUs than the first.
    #[error("the placement {name} places {found} vCPUs, and the first one {expected}; all place the same")]
    OtherVcpus {
        /// Name of the placement.
        name: String,
        /// Its vCPUs.
        found: usize,
        /// Those of the first placement.
        expected: usize,
    },
    /// Two placements of one name.
    #[error("two placements have the name {0}; names must differ")]
    SamePlacementName(String),
    /// A domain that the model does not have.
    #[error(
        "the placement {name} has vCPU {vcpu} in domain {domain}, and the cache model has {domains}, from 0"
    )]
    UnknownDomain {
        /// Name of the placement.
        name: String,
        /// The vCPU.
        vcpu: usize,
        /// The domain given.
        domain: u32,
        /// Domains of the model.
        domains: u32,
    },
    /// More vCPUs than an access can name.
    #[error("{0} vCPUs; at most {most} can be simulated", most = u32::from(super::MAX_VCPU) + 1)]
    TooManyVcpus(usize),
    /// Too many different caches.
    #[error(
        "the placements make {0} caches of different vCPUs, and at most {MAX_GROUPS} are simulated at once; run fewer placements at once"
    )]
    TooManyGroups(usize),
}

/// An access that belongs to no placed vCPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access {at} of the chunk is of vCPU {vcpu}, and {vcpus} vCPUs are placed, from 0")]
pub struct StreamError {
    /// Its position in the chunk; those before it are counted.
    pub at: usize,
    /// Its vCPU.
    pub vcpu: u16,
    /// vCPUs placed.
    pub vcpus: usize,
}
