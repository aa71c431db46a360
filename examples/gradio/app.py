"""A page of Gradio before `cascade-rt serve`.

    pip install gradio openai
    cascade-rt serve &
    python app.py
"""

import base64, io, os

import gradio
import openai
from PIL import Image

client = openai.OpenAI(base_url=os.environ.get("CASCADE_URL", "http://127.0.0.1:7860") + "/v1", api_key=os.environ.get("CASCADE_API_KEY", "none"))


def paint(prompt, negative, seed):
    """Unfinished pictures as they come, then the picture."""
    extra = {"negative_prompt": negative, "seed": int(seed)}
    for event in client.images.generate(prompt=prompt, stream=True, partial_images=3, extra_body=extra):
        yield Image.open(io.BytesIO(base64.b64decode(event.b64_json)))


page = gradio.Interface(
    paint,
    [gradio.Textbox(label="Prompt"), gradio.Textbox(label="Not in the picture"), gradio.Number(-1, label="Seed, -1 draws one", precision=0)],
    gradio.Image(label="Picture"),
    title="cascade-rt",
)

if __name__ == "__main__":
    page.launch()
