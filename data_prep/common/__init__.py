"""What every verb of data preparation needs: names as text, quantities, worker processes, key lists, files aside."""
