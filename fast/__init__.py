"""What makes training faster and changes no result: the project works without this folder, in float32."""
