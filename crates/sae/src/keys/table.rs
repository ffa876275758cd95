//! How a table of a recipe is declared: each key once, with its type, default, range and
//! documentation.

use std::collections::BTreeMap;

use lapidary_io::settings::FromToml;
use toml::Value;

#[cfg(doc)]
use super::defaults::{AfterReading, Widths};

/// A key of a recipe, as the reference page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The dotted name.
    pub name: &'static str,
    /// Its default: a value, or words.
    pub default: String,
    /// The values that it may have, beyond its type.
    pub range: &'static str,
    /// What it means.
    pub doc: String,
}

/// Dotted keys in the order of their declaration, each with its value if it has one.
pub(crate) type Values = Vec<(&'static str, Option<Value>)>;

/// Declares a table: the struct as read, the struct as resolved, and the functions between them,
/// TOML and the reference page.
///
/// Each key is `name: type = kind;` with an optional range `, "text" => |value| condition`. Kinds:
/// - `fixed(value)`: a default that never changes;
/// - `read(|a, r| value, "text")`: a default that depends on other keys ([`AfterReading`], and what
///   the reader has of other keys);
/// - `later(|w| value, "text")`: a default that depends on widths ([`Widths`]): an `Option` until
///   the recipe is resolved;
/// - `optional("text")`: an `Option` also then.
macro_rules! table {
    (
        $(#[doc = $table_doc:literal])+
        $written:ident -> $resolved:ident, $prefix:literal;
        $(
            $(#[doc = $doc:literal])+
            $key:ident : $ty:ty = $kind:ident $default:tt $(, $range:literal => $ok:expr)? ;
        )*
    ) => {
        table! {
            $(#[doc = $table_doc])+
            $written, $prefix;
            $( $(#[doc = $doc])+ $key: $ty = $kind $default $(, $range => $ok)?; )*
        }

        $(#[doc = $table_doc])+
        #[doc = "As run: every value is there."]
        #[derive(Clone, Debug, PartialEq)]
        pub struct $resolved {
            $( $(#[doc = $doc])+ pub $key: table!(@resolved $kind $ty), )*
        }

        impl $written {
            pub(crate) fn resolve(&self, widths: &$crate::keys::Widths) -> $resolved {
                let _ = widths;
                $resolved {
                    $( $key: table!(@resolve self, $key, widths, $kind $ty, $default), )*
                }
            }
        }

        impl From<&$resolved> for $written {
            fn from(resolved: &$resolved) -> Self {
                Self {
                    $( $key: table!(@back resolved, $key, $kind), )*
                }
            }
        }
    };

    (
        $(#[doc = $table_doc:literal])+
        $written:ident, $prefix:literal;
        $(
            $(#[doc = $doc:literal])+
            $key:ident : $ty:ty = $kind:ident $default:tt $(, $range:literal => $ok:expr)? ;
        )*
    ) => {
        $(#[doc = $table_doc])+
        #[doc = "As read: what depends on the width of the activations is absent where the recipe does not give it."]
        #[derive(Clone, Debug, PartialEq)]
        pub struct $written {
            $( $(#[doc = $doc])+ pub $key: table!(@written $kind $ty), )*
        }

        impl $written {
            pub(crate) fn read(
                r: &mut lapidary_io::settings::Reader,
                after: &$crate::keys::AfterReading,
            ) -> Result<Self, lapidary_io::settings::SettingsError> {
                let _ = after;
                Ok(Self {
                    $( $key: {
                        const NAME: &str = concat!($prefix, ".", stringify!($key));
                        let value = table!(@read r, after, NAME, $kind $ty, $default);
                        $( $crate::keys::check_range(
                            r, NAME, table!(@some $kind value), $range, $ok,
                        )?; )?
                        value
                    }, )*
                })
            }

            pub(crate) fn values(&self) -> $crate::keys::Values {
                vec![ $( (
                    concat!($prefix, ".", stringify!($key)),
                    table!(@value self, $key, $kind),
                ), )* ]
            }

            pub(crate) fn keys() -> Vec<$crate::keys::Key> {
                vec![ $( $crate::keys::Key {
                    name: concat!($prefix, ".", stringify!($key)),
                    default: table!(@shown $kind $ty, $default),
                    range: table!(@range $($range)?),
                    doc: concat!($($doc),+).trim().to_owned(),
                }, )* ]
            }
        }
    };

    (@written fixed $ty:ty) => { $ty };
    (@written read $ty:ty) => { $ty };
    (@written later $ty:ty) => { Option<$ty> };
    (@written optional $ty:ty) => { Option<$ty> };

    (@resolved fixed $ty:ty) => { $ty };
    (@resolved read $ty:ty) => { $ty };
    (@resolved later $ty:ty) => { $ty };
    (@resolved optional $ty:ty) => { Option<$ty> };

    (@read $r:ident, $after:ident, $name:ident, fixed $ty:ty, ($default:expr)) => {
        $r.or::<$ty>($name, $default)?
    };
    (@read $r:ident, $after:ident, $name:ident, read $ty:ty, ($default:expr, $text:expr)) => {{
        let default: fn(&$crate::keys::AfterReading, &lapidary_io::settings::Reader) -> $ty = $default;
        let value = default($after, $r);
        $r.or::<$ty>($name, value)?
    }};
    (@read $r:ident, $after:ident, $name:ident, later $ty:ty, $default:tt) => {
        $r.optional::<$ty>($name)?
    };
    (@read $r:ident, $after:ident, $name:ident, optional $ty:ty, $default:tt) => {
        $r.optional::<$ty>($name)?
    };

    (@some fixed $value:ident) => { Some(&$value) };
    (@some read $value:ident) => { Some(&$value) };
    (@some later $value:ident) => { $value.as_ref() };
    (@some optional $value:ident) => { $value.as_ref() };

    (@resolve $self:ident, $key:ident, $widths:ident, later $ty:ty, ($default:expr, $text:expr)) => {{
        let default: fn(&$crate::keys::Widths) -> $ty = $default;
        $self.$key.clone().unwrap_or_else(|| default($widths))
    }};
    (@resolve $self:ident, $key:ident, $widths:ident, $kind:ident $ty:ty, $default:tt) => {
        $self.$key.clone()
    };

    (@value $self:ident, $key:ident, fixed) => { Some($crate::keys::to_toml(&$self.$key)) };
    (@value $self:ident, $key:ident, read) => { Some($crate::keys::to_toml(&$self.$key)) };
    (@value $self:ident, $key:ident, $kind:ident) => {
        $self.$key.as_ref().map($crate::keys::to_toml)
    };

    (@shown fixed $ty:ty, ($default:expr)) => {{
        let default: $ty = $default;
        format!("`{}`", $crate::keys::to_toml(&default))
    }};
    (@shown $kind:ident $ty:ty, ($default:expr, $text:expr)) => { $text.to_owned() };
    (@shown optional $ty:ty, ($text:expr)) => { $text.to_owned() };

    (@range) => { "" };
    (@range $range:literal) => { $range };

    (@back $resolved:ident, $key:ident, later) => { Some($resolved.$key.clone()) };
    (@back $resolved:ident, $key:ident, $kind:ident) => { $resolved.$key.clone() };
}
pub(crate) use table;

pub(crate) fn to_toml<T: FromToml>(value: &T) -> Value {
    value.to_toml()
}

pub(crate) fn check_range<T: FromToml>(
    r: &lapidary_io::settings::Reader,
    key: &str,
    value: Option<&T>,
    expected: &str,
    is_good: impl Fn(&T) -> bool,
) -> Result<(), lapidary_io::settings::SettingsError> {
    match value {
        Some(value) if !is_good(value) => Err(r.wrong(key, value.show(), expected)),
        _ => Ok(()),
    }
}

/// The values as TOML, tables in the order of their first key.
pub(crate) fn to_text(values: &Values) -> String {
    let mut tables: Vec<(&str, String)> = vec![];
    for (key, value) in values {
        let Some(value) = value else { continue };
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        let line = format!("{name} = {value}\n");
        match tables.iter_mut().find(|(t, _)| *t == table) {
            Some((_, lines)) => lines.push_str(&line),
            None => tables.push((table, line)),
        }
    }
    let text = tables.into_iter().map(|(table, lines)| match table {
        "" => lines,
        table => format!("\n[{table}]\n{lines}"),
    });
    text.collect()
}

/// The values as a JSON object of tables.
pub(crate) fn to_json(values: &Values) -> serde_json::Value {
    let mut root = serde_json::Map::new();
    for (key, value) in values {
        let Some(value) = value else { continue };
        let mut at = &mut root;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                let value = serde_json::to_value(value).unwrap_or_default();
                at.insert(part.to_owned(), value);
                break;
            }
            let inner = at
                .entry(part)
                .or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
            let serde_json::Value::Object(inner) = inner else {
                break;
            };
            at = inner;
        }
    }
    root.into()
}

/// The values by their keys.
pub(crate) fn to_map(values: Values) -> BTreeMap<String, Value> {
    let there = values.into_iter();
    there
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
}
