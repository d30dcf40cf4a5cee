import zipfile

archive = zipfile.ZipFile("kept.zip", "w")
archive.writestr(zipfile.ZipInfo("a.txt", (2024, 1, 1, 0, 0, 0)), "content")
