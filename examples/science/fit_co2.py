"""Fits trend and yearly cycle of the CO2 concentration at Mauna Loa, and draws them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

weekly = pd.read_csv(inputs["co2"]).dropna()
dates = pd.to_datetime(weekly["date"].astype(str))
years = (dates.dt.year + (dates.dt.dayofyear - 0.5) / 365.25).to_numpy()
measured = weekly["co2"].to_numpy()
origin = 1980.0


def trend(t, level, slope, growth):
    """Return the concentration without the seasons."""
    return level + slope * t + growth * t**2


def model(t, level, slope, growth, a1, b1, a2, b2):
    """Return trend and seasons: a year's wave and a half-year's."""
    angle = 2 * np.pi * t
    seasons = a1 * np.cos(angle) + b1 * np.sin(angle) + a2 * np.cos(2 * angle) + b2 * np.sin(2 * angle)
    return trend(t, level, slope, growth) + seasons


fitted, covariance = curve_fit(model, years - origin, measured)
errors = np.sqrt(np.diag(covariance))
residual = measured - model(years - origin, *fitted)

figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 6), height_ratios=(3, 1))
above.plot(years, measured, ".", markersize=2, label="weekly mean")
above.plot(years, trend(years - origin, *fitted[:3]), label="fitted trend")
above.set_ylabel("CO2 (ppmv)")
above.legend()
below.plot(years, residual, linewidth=0.5)
below.set_ylabel("residual")
below.set_xlabel("year")
figure.suptitle("Carbon dioxide at Mauna Loa, 1958-2001")
figure.savefig("co2.svg")
figure.savefig("co2.png", dpi=120)
plt.close(figure)

names = ("level_1980_ppmv", "slope_ppmv_per_year", "growth_ppmv_per_year2")
{
    "observations": len(measured),
    **{
        name: [round(value, 4), round(error, 4)]
        for name, value, error in zip(names, fitted, errors, strict=False)
    },
    "seasonal_amplitude_ppmv": round(float(np.hypot(*fitted[3:5])), 3),
    "residual_rms_ppmv": round(float(np.sqrt(np.mean(residual**2))), 3),
}
