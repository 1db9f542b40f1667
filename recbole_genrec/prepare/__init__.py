"""Raw dumps and your own tables -> a data set folder."""
