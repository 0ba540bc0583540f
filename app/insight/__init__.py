"""What is made of readings, here or elsewhere: predictions, and alerts with what people did about them."""
