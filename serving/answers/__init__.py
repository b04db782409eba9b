"""From queries to answers under the threshold of one release."""
