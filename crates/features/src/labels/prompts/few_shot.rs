//! Solved examples that show a language model the form of a question and of a reply.

/// One solved example.
pub(super) struct Shot {
    pub(super) explanation: &'static str,
    pub(super) windows: [&'static str; 5],
    pub(super) reply: &'static str,
}

pub(super) const DETECTION: [Shot; 3] = [
    Shot {
        explanation: "Names of chemical elements.",
        windows: [
            "Diamond and graphite both consist of carbon, yet they look nothing alike",
            "The ferry leaves the harbour at noon and returns before dark",
            "Water boils at a lower temperature on a high mountain",
            "Two atoms of hydrogen and one of oxygen form a molecule of water",
            "The committee met twice in spring and could not agree on a budget",
        ],
        reply: "[1, 0, 0, 1, 0]",
    },
    Shot {
        explanation: "A year written in digits.",
        windows: [
            "The first people walked on the Moon in July 1969, four days after launch",
            "Paris is the capital of France and lies on the Seine",
            "There are twelve months in a year and seven days in a week",
            "Mount Everest is the highest mountain above sea level",
            "The Berlin Wall fell in 1989, and Germany was reunited a year later",
        ],
        reply: "[1, 0, 0, 0, 1]",
    },
    Shot {
        explanation: "A negation that changes the meaning of a verb, such as \"did not\".",
        windows: [
            "Penguins are birds, but they cannot fly",
            "The train arrived on time and everyone got a seat",
            "Whales do not lay eggs; they are mammals",
            "A spider has eight legs and an ant has six",
            "He didn't see the sign and drove on",
        ],
        reply: "[1, 0, 1, 0, 1]",
    },
];

pub(super) const FUZZING: [Shot; 3] = [
    Shot {
        explanation: "Names of planets.",
        windows: [
            "The largest planet is<< Jupiter>>, which has dozens of moons",
            "A year on Mars lasts<< almost>> two of ours",
            "The rings of<< Saturn>> consist mostly of ice",
            "Bread rises because<< yeast>> makes gas",
            "Venus<< is>> hotter than Mercury<<,>> although it is farther from the Sun",
        ],
        reply: "[1, 0, 1, 0, 0]",
    },
    Shot {
        explanation: "The unit after a number.",
        windows: [
            "A marathon is about 42<< kilometres>> long",
            "Light travels 300 000<< kilometres>> in one<< second>>",
            "The recipe needs 200 grams of<< flour>> and a little salt",
            "The river Nile flows north<< into>> the Mediterranean Sea",
            "Pure water freezes at 0<< degrees>> on the Celsius scale",
        ],
        reply: "[1, 1, 0, 0, 1]",
    },
    Shot {
        explanation: "A closing bracket.",
        windows: [
            "The function f(x<<)>> grows without bound",
            "Oxygen (<<symbol>> O) makes up a fifth of the air",
            "Rome was<< not>> built in a day",
            "She plays the violin<< and>> the cello (but not well)",
            "Tokyo (formerly Edo<<)>> is the capital of Japan",
        ],
        reply: "[1, 0, 0, 0, 1]",
    },
];
