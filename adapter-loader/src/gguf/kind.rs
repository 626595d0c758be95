use std::fmt;

// Each with its number in a file, and how many elements a block has in how many bytes.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $word:literal = $number:literal, $elements:literal in $bytes:literal;)*) => {
        /// How a tensor's numbers are kept: ggml's `ggml_type` (`ggml.h`; sizes: `ggml-common.h`).
        #[allow(non_camel_case_types, reason = "ggml's names, which are everybody's")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum TensorKind { $($(#[$doc])* #[doc = $word] $name,)* }

        impl TensorKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The one with this number in a file.
            pub fn of(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its number in a file.
            pub fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// Elements of a block, and its bytes.
            pub fn block(self) -> (usize, usize) {
                match self { $(Self::$name => ($elements, $bytes),)* }
            }

            /// Its name, as llama.cpp and Ollama print it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

kinds! {
    F32 "F32" = 0, 1 in 4;
    F16 "F16" = 1, 1 in 2;
    Q4_0 "Q4_0" = 2, 32 in 18;
    Q4_1 "Q4_1" = 3, 32 in 20;
    Q5_0 "Q5_0" = 6, 32 in 22;
    Q5_1 "Q5_1" = 7, 32 in 24;
    Q8_0 "Q8_0" = 8, 32 in 34;
    Q8_1 "Q8_1" = 9, 32 in 40;
    Q2_K "Q2_K" = 10, 256 in 84;
    Q3_K "Q3_K" = 11, 256 in 110;
    Q4_K "Q4_K" = 12, 256 in 144;
    Q5_K "Q5_K" = 13, 256 in 176;
    Q6_K "Q6_K" = 14, 256 in 210;
    Q8_K "Q8_K" = 15, 256 in 292;
    IQ2_XXS "IQ2_XXS" = 16, 256 in 66;
    IQ2_XS "IQ2_XS" = 17, 256 in 74;
    IQ3_XXS "IQ3_XXS" = 18, 256 in 98;
    IQ1_S "IQ1_S" = 19, 256 in 50;
    IQ4_NL "IQ4_NL" = 20, 32 in 18;
    IQ3_S "IQ3_S" = 21, 256 in 110;
    IQ2_S "IQ2_S" = 22, 256 in 82;
    IQ4_XS "IQ4_XS" = 23, 256 in 136;
    I8 "I8" = 24, 1 in 1;
    I16 "I16" = 25, 1 in 2;
    I32 "I32" = 26, 1 in 4;
    I64 "I64" = 27, 1 in 8;
    F64 "F64" = 28, 1 in 8;
    IQ1_M "IQ1_M" = 29, 256 in 56;
    BF16 "BF16" = 30, 1 in 2;
    TQ1_0 "TQ1_0" = 34, 256 in 54;
    TQ2_0 "TQ2_0" = 35, 256 in 66;
    MXFP4 "MXFP4" = 39, 32 in 17;
}

impl TensorKind {
    /// Bytes of so many elements, which must be whole blocks.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let (block, bytes) = self.block();
        let whole = elements.is_multiple_of(block as u64);
        whole.then(|| (elements / block as u64).checked_mul(bytes as u64)).flatten()
    }
}

impl fmt::Display for TensorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
