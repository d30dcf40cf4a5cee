import csv

out = open("measurements.csv", "w", newline="")
writer = csv.writer(out)
writer.writerow(["sample", "value"])
writer.writerows([n, n * 0.5] for n in range(1500))
