class BadError(Exception):
    def __str__(self):
        return self.detail


raise BadError("x")
