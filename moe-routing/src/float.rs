//! The element types of routing.

/// The two element types routing runs in: `f32` in models, `f64` as the definition.
pub trait Float:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + Into<f64>
    + Send
    + Sync
    + 'static
{
    /// From a constant.
    fn of(value: f64) -> Self;
    /// `e^self`.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
}

macro_rules! float {
    ($t:ty) => {
        impl Float for $t {
            #[allow(clippy::cast_possible_truncation, trivial_numeric_casts)]
            fn of(value: f64) -> Self {
                value as $t
            }
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
        }
    };
}
float!(f32);
float!(f64);
