//! The axes of a coordinate.

/// An axis of the positions: temporal, height, width, and as many more as a design has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis(pub usize);

impl Axis {
    /// Time.
    pub const T: Self = Self(0);
    /// Rows.
    pub const H: Self = Self(1);
    /// Columns.
    pub const W: Self = Self(2);
}
