"""What every verb of data preparation needs: worker processes, key lists, reads ahead and from afar, files aside."""
