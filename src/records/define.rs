// SPDX-License-Identifier: GPL-2.0

//! The macros by which records are defined.

/// The description of a field, from its definition.
macro_rules! field_info {
    ($owner:ident, $field:ident, $type:ty, [$($unit:ident)? $(; since $since:literal)?], $($doc:literal)+) => {
        $crate::records::FieldInfo {
            key: $crate::records::key(stringify!($field)),
            type_: <$type as $crate::records::Field>::TYPE,
            optional: <$type as $crate::records::Field>::OPTIONAL,
            offset: core::mem::offset_of!($owner, $field),
            unit: concat!("" $(, stringify!($unit))?),
            since: {
                let _since = 1;
                $( let _since = $since; )?
                _since
            },
            doc: concat!($($doc),+),
        }
    };
}

/// A structure with its fields.
macro_rules! fields {
    (
        $(#[doc = $doc:literal])+
        $name:ident {
            $( $(#[doc = $field_doc:literal])+ $field:ident: $type:ty $([$($unit:tt)*])?, )*
        }
    ) => {
        $(#[doc = $doc])+
        #[repr(C)]
        #[derive(Clone, Copy, Default)]
        #[cfg_attr(
            not(MODULE),
            derive(
                Debug,
                PartialEq,
                Eq,
                zerocopy::FromBytes,
                zerocopy::Immutable,
                zerocopy::KnownLayout,
                zerocopy::Unaligned
            )
        )]
        pub struct $name {
            $( $(#[doc = $field_doc])+ pub $field: $type, )*
        }

        impl $name {
            const FIELDS: &'static [$crate::records::FieldInfo] = &[
                $( field_info!($name, $field, $type, [$($($unit)*)?], $($field_doc)+), )*
            ];

            /// The most bytes of its fields as text.
            const FIELDS_MOST: usize = 0
                $( + $crate::records::key(stringify!($field)).len()
                    + 2
                    + <$type as $crate::records::Field>::MOST )*;

            #[inline(always)]
            fn write_fields<'r, S: $crate::records::Sink<'r>>(
                &'r self,
                tail: $crate::records::Tail<'_, 'r>,
                sink: &mut S,
            ) {
                $( $crate::records::Field::write(
                    &self.$field,
                    const { $crate::records::key(stringify!($field)) },
                    tail,
                    sink,
                ); )*
            }
        }
    };
}

/// Defines records, each by its number in the binary form and its name in text:
///
/// ```ignore
/// record! {
///     /// A thread of the process.
///     Thread = 12 "thread" {
///         /// Its number.
///         tid: Signed,
///         /// Its name.
///         comm: Comm,
///         /// How long it ran.
///         ran: Number [ns; since 2],
///     }
/// }
/// ```
macro_rules! record {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident = $kind:literal $text:literal { $($fields:tt)* }
    )*) => {
        $(
            fields! {
                $(#[doc = $doc])+
                $name { $($fields)* }
            }

            impl $crate::records::Record for $name {
                const INFO: $crate::records::Info = $crate::records::Info {
                    kind: $kind,
                    name: $text,
                    size: core::mem::size_of::<Self>(),
                    doc: concat!($($doc),+),
                    fields: Self::FIELDS,
                };
                const MOST: usize = $text.len() + Self::FIELDS_MOST + 1;

                fn write<'r, S: $crate::records::Sink<'r>>(
                    &'r self,
                    tail: $crate::records::Tail<'_, 'r>,
                    sink: &mut S,
                ) {
                    self.write_fields(tail, sink);
                }
            }
        )*

        /// The records that are defined here.
        pub const RECORDS: &[$crate::records::Info] =
            &[ $( <$name as $crate::records::Record>::INFO, )* ];

        /// Writes the record of that number whose structure these bytes are: its name. None if
        /// there is none here.
        #[cfg(not(MODULE))]
        pub fn write<'r, S: $crate::records::Sink<'r>>(
            kind: u16,
            bytes: &'r [u8],
            tail: $crate::records::Tail<'_, 'r>,
            sink: &mut S,
        ) -> Option<$crate::records::Cast> {
            use zerocopy::FromBytes;
            use $crate::records::{Cast, Record};
            Some(match kind {
                $( $kind => match $name::ref_from_prefix(bytes) {
                    Ok((record, _)) => {
                        record.write(tail, sink);
                        Cast::Record($text)
                    }
                    Err(_) => Cast::Short,
                }, )*
                _ => return None,
            })
        }
    };
}

/// Defines fields that several records have, or that a record has only together.
macro_rules! part {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident { $($fields:tt)* }
    )*) => {$(
        fields! {
            $(#[doc = $doc])+
            $name { $($fields)* }
        }

        impl $crate::records::Field for $name {
            const TYPE: $crate::records::Type = $crate::records::Type::Part(Self::FIELDS);
            const MOST: usize = Self::FIELDS_MOST;

            #[inline(always)]
            fn write<'r, S: $crate::records::Sink<'r>>(
                &'r self,
                _key: $crate::records::Key,
                tail: $crate::records::Tail<'_, 'r>,
                sink: &mut S,
            ) {
                self.write_fields(tail, sink);
            }
        }
    )*};
}

/// A number of eight bytes that names are defined for.
macro_rules! named {
    ($(#[doc = $doc:literal])+ $name:ident $most:expr) => {
        $(#[doc = $doc])+
        #[repr(transparent)]
        #[derive(Clone, Copy, Default, PartialEq, Eq)]
        #[cfg_attr(
            not(MODULE),
            derive(
                Debug,
                zerocopy::FromBytes,
                zerocopy::Immutable,
                zerocopy::KnownLayout,
                zerocopy::Unaligned
            )
        )]
        pub struct $name([u8; 8]);

        impl $name {
            /// The most bytes of text.
            const MOST_TEXT: usize = $most;

            /// A value.
            pub const fn new(value: u64) -> Self {
                Self(value.to_le_bytes())
            }

            /// The value.
            pub const fn get(self) -> u64 {
                u64::from_le_bytes(self.0)
            }
        }
    };
}

/// Defines numbers that have names; one without a name is written with a prefix:
///
/// ```ignore
/// enumeration! {
///     /// A socket's address family.
///     Family else "af_" {
///         /// IPv4.
///         INET = 2 "inet",
///     }
/// }
/// ```
macro_rules! enumeration {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident else $prefix:literal {
            $( $(#[doc = $value_doc:literal])* $constant:ident = $value:literal $text:literal, )*
        }
    )*) => {$(
        named! {
            $(#[doc = $doc])+
            $name {
                // The longest number behind the prefix, and as much as the longest name.
                let mut most = $prefix.len() + 20;
                $( if $text.len() > most {
                    most = $text.len();
                } )*
                most
            }
        }

        impl $name {
            $( #[doc = concat!("`", $text, "`.")] $(#[doc = $value_doc])*
            pub const $constant: Self = Self::new($value); )*
        }

        impl $crate::records::Field for $name {
            const TYPE: $crate::records::Type = $crate::records::Type::Enumeration(
                &[ $( $crate::records::Name {
                    value: $value,
                    name: $text,
                    doc: concat!($($value_doc),*),
                }, )* ],
                $prefix,
            );
            const MOST: usize = Self::MOST_TEXT;

            #[inline]
            fn write<'r, S: $crate::records::Sink<'r>>(
                &'r self,
                key: $crate::records::Key,
                _tail: $crate::records::Tail<'_, 'r>,
                sink: &mut S,
            ) {
                let name: &'static str = match self.get() {
                    $( $value => $text, )*
                    value => return sink.numbered(key, $prefix, value & 0xffff_ffff),
                };
                sink.word(key, name.as_bytes());
            }
        }
    )*};
}

/// Defines sets of bits that have names.
macro_rules! bits {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident {
            $( $(#[doc = $value_doc:literal])* $constant:ident = $value:literal $text:literal, )*
        }
    )*) => {$(
        named! {
            $(#[doc = $doc])+
            // All names, with commas between, or `none`.
            $name { 4 $( + $text.len() + 1 )* }
        }

        impl $name {
            $( #[doc = concat!("`", $text, "`.")] $(#[doc = $value_doc])*
            pub const $constant: u64 = $value; )*

            const NAMES: &'static [$crate::records::Name] = &[ $( $crate::records::Name {
                value: $value,
                name: $text,
                doc: concat!($($value_doc),*),
            }, )* ];
        }

        impl $crate::records::Field for $name {
            const TYPE: $crate::records::Type = $crate::records::Type::Bits(Self::NAMES);
            const MOST: usize = Self::MOST_TEXT;

            #[inline]
            fn write<'r, S: $crate::records::Sink<'r>>(
                &'r self,
                key: $crate::records::Key,
                _tail: $crate::records::Tail<'_, 'r>,
                sink: &mut S,
            ) {
                sink.bits(key, self.get(), Self::NAMES);
            }
        }
    )*};
}
