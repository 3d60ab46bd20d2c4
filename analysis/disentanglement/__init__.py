"""Does each coordinate of the code follow one factor of the data, and each factor one coordinate?"""
