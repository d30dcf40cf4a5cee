print("größe", ascii("ü"), repr("\udcff"))
