"""The numbers of a report: run folders in, plain facts and the lines of figures out."""
