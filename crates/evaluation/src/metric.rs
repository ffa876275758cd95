//! A metric: what it is called, what it means, and how it is shown.
//!
//! A struct of metrics is declared with `metrics!`, one entry per metric. The fields of the struct,
//! the keys of its JSON, the lines of the printed table, the columns of the Parquet table and the
//! tables of `docs/reference/metrics.md` all come from the entries.
//!
//! To add a metric, compute it and add an entry. `LAPIDARY_WRITE_DOCS=1 cargo test --workspace
//! --test registry` rewrites the page; `tests/fixtures/metrics/` has what is written and printed.

/// What is known about a metric, its value apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Key in JSON, column in Parquet, and name in printed tables.
    pub name: &'static str,
    /// Title of the group that it belongs to; empty where there is one group.
    pub section: &'static str,
    /// Formula or definition, in Markdown: the doc comment of the field.
    pub definition: &'static str,
    /// Unit of the value; empty for a ratio.
    pub unit: &'static str,
    /// Library or paper that has the same metric, and how it differs, in Markdown.
    pub source: &'static str,
    /// A few words, printed beside the value.
    pub label: &'static str,
    /// A longer label for the report; `None` if the report has the short one.
    pub report_label: Option<&'static str>,
    /// Whether the printed table has it.
    pub printed: bool,
}

impl Metric {
    /// What entries leave out.
    pub(crate) const BLANK: Self = Self {
        name: "",
        section: "",
        definition: "",
        unit: "",
        source: "",
        label: "",
        report_label: None,
        printed: true,
    };
}

/// Declares a struct whose fields are metrics. The doc comment of a field is the definition of its
/// metric. `also` holds the fields that are none. `by` names the function that reads a field.
macro_rules! metrics {
    (
        $(#[$of_struct:meta])*
        pub struct $of:ident by $read:path => $value:ty {
            $(
                in $section:literal {
                    $(
                        $(#[doc = $definition:literal])+
                        $(#[serde $serde:tt])?
                        $name:ident: $type:ty { $($fact:ident: $fact_value:expr),* $(,)? }
                    )*
                }
            )*
            also {
                $($(#[$of_field:meta])* $field:ident: $field_type:ty,)*
            }
        }
    ) => {
        $(#[$of_struct])*
        pub struct $of {
            $($(
                $(#[doc = $definition])+
                $(#[serde $serde])?
                pub $name: $type,
            )*)*
            $($(#[$of_field])* pub $field: $field_type,)*
        }

        impl $of {
            /// The metrics, in the order of printed tables.
            pub const METRICS: &'static [$crate::metric::Metric] = &[$($(
                $crate::metric::Metric {
                    name: stringify!($name),
                    section: $section,
                    definition: concat!($($definition),+).trim_ascii(),
                    $($fact: $fact_value,)*
                    ..$crate::metric::Metric::BLANK
                },
            )*)*];

            /// Each metric with its value, in the order of [`Self::METRICS`].
            pub fn values(
                &self,
            ) -> impl Iterator<Item = (&'static $crate::metric::Metric, $value)> {
                Self::METRICS.iter().zip([$($($read(&self.$name),)*)*])
            }
        }
    };
}

pub(crate) use metrics;

/// A field that holds one number.
pub(crate) trait Number {
    /// The number; `None` where the metric does not apply.
    fn number(&self) -> Option<f64>;
}

impl Number for f64 {
    fn number(&self) -> Option<f64> {
        Some(*self)
    }
}

impl Number for u64 {
    fn number(&self) -> Option<f64> {
        Some(*self as f64)
    }
}

impl Number for Option<f64> {
    fn number(&self) -> Option<f64> {
        *self
    }
}
