// Browsers refuse workers to pages that are opened from a folder. There the search runs in a frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      document.body.append(this.frame);
      this.ready = new Promise((loaded) => {
        const page = this.frame.contentDocument;
        this.frame.contentWindow.postMessage = this.frame.answer;
        const script = page.createElement("script");
        script.onload = loaded;
        script.src = address;
        page.body.append(script);
      });
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
