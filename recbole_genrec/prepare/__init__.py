"""Raw dumps and tables of your own -> a data set folder."""
