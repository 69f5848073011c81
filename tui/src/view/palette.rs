//! Colour ramps from low to high: brightness rises throughout, so that they rank cells for every kind of
//! colour vision and in monochrome print.

use crate::app::scale::TOP_LEVEL;
use crate::colour::Palette;

const STEPS: usize = TOP_LEVEL as usize;
type Rgb = (u8, u8, u8);

/// Levels 1 to 9 in 24-bit colours, and in xterm's 256 colours with their red, green and blue.
pub(crate) struct Ramps {
    pub(crate) rgb: [Rgb; STEPS],
    pub(crate) indexed: [(u8, Rgb); STEPS],
}

/// Cividis (Nunez, Anderton and Renslow, PLOS ONE 13(7), 2018): designed so that people with and without
/// colour-vision deficiency rank its colours alike.
const CIVIDIS: Ramps = Ramps {
    rgb: [
        (0, 34, 78),
        (8, 51, 112),
        (53, 69, 108),
        (79, 87, 108),
        (102, 105, 112),
        (125, 124, 120),
        (174, 163, 113),
        (200, 184, 102),
        (254, 232, 56),
    ],
    indexed: [
        (17, (0, 0, 95)),
        (24, (0, 95, 135)),
        (60, (95, 95, 135)),
        (102, (135, 135, 135)),
        (144, (175, 175, 135)),
        (179, (215, 175, 95)),
        (185, (215, 215, 95)),
        (221, (255, 215, 95)),
        (227, (255, 255, 95)),
    ],
};

/// From black through red and orange to pale yellow: more steps that can be distinguished than
/// [`CIVIDIS`], and darker ones for low values.
const EMBER: Ramps = Ramps {
    rgb: [
        (32, 12, 40),
        (68, 12, 68),
        (112, 22, 72),
        (152, 38, 62),
        (190, 56, 44),
        (220, 90, 24),
        (242, 136, 14),
        (248, 190, 60),
        (252, 244, 160),
    ],
    indexed: [
        (52, (95, 0, 0)),
        (53, (95, 0, 95)),
        (88, (135, 0, 0)),
        (124, (175, 0, 0)),
        (160, (215, 0, 0)),
        (166, (215, 95, 0)),
        (208, (255, 135, 0)),
        (220, (255, 215, 0)),
        (229, (255, 255, 175)),
    ],
};

/// Greys.
const GREY: Ramps = Ramps {
    rgb: [
        (38, 38, 38),
        (62, 62, 62),
        (86, 86, 86),
        (110, 110, 110),
        (136, 136, 136),
        (162, 162, 162),
        (190, 190, 190),
        (220, 220, 220),
        (250, 250, 250),
    ],
    indexed: [
        (235, (38, 38, 38)),
        (237, (58, 58, 58)),
        (239, (78, 78, 78)),
        (242, (108, 108, 108)),
        (245, (138, 138, 138)),
        (247, (158, 158, 158)),
        (250, (188, 188, 188)),
        (253, (218, 218, 218)),
        (255, (238, 238, 238)),
    ],
};

impl Ramps {
    pub(crate) fn of(palette: Palette) -> &'static Self {
        match palette {
            Palette::Cividis => &CIVIDIS,
            Palette::Ember => &EMBER,
            Palette::Grey => &GREY,
        }
    }
}

/// Luma (ITU-R BT.709, without gamma) from 0 to 255.
pub(crate) fn luma((red, green, blue): Rgb) -> f64 {
    0.2126 * f64::from(red) + 0.7152 * f64::from(green) + 0.0722 * f64::from(blue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ramp_rises_in_brightness() {
        for palette in Palette::ALL {
            let ramps = Ramps::of(palette);
            assert!(ramps.rgb.windows(2).all(|pair| luma(pair[0]) < luma(pair[1])), "{palette}");
            let rises = |pair: &[(u8, Rgb)]| luma(pair[0].1) < luma(pair[1].1);
            assert!(ramps.indexed.windows(2).all(rises), "{palette}");
        }
    }

    #[test]
    fn the_256_colours_are_those_of_the_terminal() {
        for (index, rgb) in Palette::ALL.into_iter().flat_map(|palette| Ramps::of(palette).indexed) {
            let expected = if index >= 232 {
                let grey = 8 + 10 * (index - 232);
                (grey, grey, grey)
            } else {
                let step = |part: u8| if part == 0 { 0 } else { 55 + 40 * part };
                let cube = index - 16;
                (step(cube / 36), step(cube / 6 % 6), step(cube % 6))
            };
            assert_eq!(rgb, expected, "{index}");
        }
    }
}
