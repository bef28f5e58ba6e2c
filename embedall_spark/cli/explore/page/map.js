"use strict";
// A map of points in WebGL: it pans, zooms and says which point lies under the pointer.
const COLORS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#994f00", "#117733",
  "#882255", "#ddaa33", "#5566cc", "#44aa99", "#777777", "#e07b39", "#7f3fbf", "#2f8f5b"];

class PointMap {
  constructor(canvas, moved) {
    this.canvas = canvas;
    this.moved = moved;
    this.view = [0, 0, 1];
    this.places = new Float32Array(0);
    this.marked = [];
    this.gl = canvas.getContext("webgl", {preserveDrawingBuffer: true, antialias: true, alpha: false});
    if (this.gl) this.start();
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.listen();
  }

  start() {
    const gl = this.gl;
    const shader = (kind, source) => {
      const made = gl.createShader(kind);
      gl.shaderSource(made, source);
      gl.compileShader(made);
      return made;
    };
    this.program = gl.createProgram();
    gl.attachShader(this.program, shader(gl.VERTEX_SHADER, `attribute vec2 place; attribute vec3 color; attribute float size;
      uniform vec3 view; uniform vec2 aspect; varying vec3 shade;
      void main() { gl_Position = vec4((place - view.xy) * view.z * aspect, 0.0, 1.0);
        gl_PointSize = size * clamp(sqrt(view.z), 1.0, 3.0); shade = color; }`));
    gl.attachShader(this.program, shader(gl.FRAGMENT_SHADER, `precision mediump float; varying vec3 shade;
      void main() { vec2 at = gl_PointCoord - 0.5; if (dot(at, at) > 0.25) discard; gl_FragColor = vec4(shade, 0.85); }`));
    gl.linkProgram(this.program);
    gl.useProgram(this.program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    this.uniforms = {view: gl.getUniformLocation(this.program, "view"), aspect: gl.getUniformLocation(this.program, "aspect")};
    this.buffers = {place: gl.createBuffer(), color: gl.createBuffer(), size: gl.createBuffer()};
  }

  fill(name, values, width) {
    const gl = this.gl, where = gl.getAttribLocation(this.program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(where);
    gl.vertexAttribPointer(where, width, gl.FLOAT, false, 0, 0);
  }

  show(places) {
    this.places = places;
    // Cells of a grid, so that the point under the pointer is found at once.
    this.cells = new Map();
    for (let i = 0; i < places.length / 2; i++) {
      const key = this.cell(places[2 * i], places[2 * i + 1]);
      if (this.cells.has(key)) this.cells.get(key).push(i); else this.cells.set(key, [i]);
    }
    if (this.gl) this.fill("place", places, 2);
    this.paint(null, []);
  }

  cell(x, y) { return Math.floor((x + 1) * 100) * 1000 + Math.floor((y + 1) * 100); }

  paint(codes, marked) {
    if (codes) this.codes = codes;
    this.marked = marked || this.marked;
    if (!this.gl) return;
    const count = this.places.length / 2, colors = new Float32Array(3 * count), sizes = new Float32Array(count);
    const known = COLORS.map(text => [1, 3, 5].map(at => parseInt(text.slice(at, at + 2), 16) / 255));
    const size = (count > 20000 ? 2.5 : count > 2000 ? 4 : 7) * (window.devicePixelRatio || 1);
    for (let i = 0; i < count; i++) {
      colors.set(known[(this.codes ? this.codes[i] : 0) % known.length], 3 * i);
      sizes[i] = size;
    }
    for (const i of this.marked) {
      colors.set([0.05, 0.05, 0.05], 3 * i);
      sizes[i] = 2 * size;
    }
    this.fill("color", colors, 3);
    this.fill("size", sizes, 1);
    this.draw();
  }

  aspect() {
    const {clientWidth: width, clientHeight: height} = this.canvas;
    return width > height ? [height / width, 1] : [1, width / height];
  }

  // However many events there are, each frame is drawn once.
  draw() {
    if (!this.gl || this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      if (this.places.length) this.render();
    });
  }

  render() {
    const gl = this.gl, ratio = window.devicePixelRatio || 1;
    for (const [side, pixels] of [["width", this.canvas.clientWidth], ["height", this.canvas.clientHeight]]) {
      const wanted = Math.round(pixels * ratio);
      if (this.canvas[side] !== wanted) this.canvas[side] = wanted;
    }
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0.985, 0.99, 0.995, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform3f(this.uniforms.view, this.view[0], this.view[1], 0.95 * this.view[2]);
    gl.uniform2f(this.uniforms.aspect, ...this.aspect());
    gl.drawArrays(gl.POINTS, 0, this.places.length / 2);
  }

  // The place on the map of a pixel of the canvas.
  at(x, y) {
    const [wide, high] = this.aspect(), zoom = 0.95 * this.view[2];
    return [(2 * x / this.canvas.clientWidth - 1) / (wide * zoom) + this.view[0],
      (1 - 2 * y / this.canvas.clientHeight) / (high * zoom) + this.view[1]];
  }

  pixel(i) {
    const [wide, high] = this.aspect(), zoom = 0.95 * this.view[2];
    return [((this.places[2 * i] - this.view[0]) * wide * zoom + 1) * this.canvas.clientWidth / 2,
      (1 - (this.places[2 * i + 1] - this.view[1]) * high * zoom) * this.canvas.clientHeight / 2];
  }

  nearest(x, y) {
    const [left, top] = this.at(x - 10, y - 10), [right, bottom] = this.at(x + 10, y + 10);
    let best = -1, least = 100;
    for (let column = Math.floor((left + 1) * 100); column <= Math.floor((right + 1) * 100); column++)
      for (let row = Math.floor((bottom + 1) * 100); row <= Math.floor((top + 1) * 100); row++)
        for (const i of (this.cells && this.cells.get(column * 1000 + row)) || []) {
          const [px, py] = this.pixel(i), distance = (px - x) ** 2 + (py - y) ** 2;
          if (distance < least) [best, least] = [i, distance];
        }
    return best;
  }

  move(view) {
    this.view = [view[0], view[1], Math.min(500, Math.max(0.5, view[2]))];
    this.draw();
    this.moved(this.view);
  }

  zoom(factor, x, y) {
    const before = this.at(x, y);
    this.view[2] = Math.min(500, Math.max(0.5, this.view[2] * factor));
    const after = this.at(x, y);
    this.move([this.view[0] + before[0] - after[0], this.view[1] + before[1] - after[1], this.view[2]]);
  }

  listen() {
    const canvas = this.canvas;
    let from = null;
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
    }, {passive: false});
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      from = [event.offsetX, event.offsetY];
      this.dragged = false;
    });
    canvas.addEventListener("pointermove", event => {
      if (!from) return;
      const old = this.at(...from), now = this.at(event.offsetX, event.offsetY);
      if (Math.hypot(event.offsetX - from[0], event.offsetY - from[1]) > 3) this.dragged = true;
      if (!this.dragged) return;
      this.move([this.view[0] + old[0] - now[0], this.view[1] + old[1] - now[1], this.view[2]]);
      from = [event.offsetX, event.offsetY];
    });
    canvas.addEventListener("pointerup", () => { from = null; });
    canvas.addEventListener("keydown", event => {
      const step = 0.2 / this.view[2], [x, y, zoom] = this.view;
      const moves = {ArrowLeft: [x - step, y, zoom], ArrowRight: [x + step, y, zoom], ArrowUp: [x, y + step, zoom],
        ArrowDown: [x, y - step, zoom], "+": [x, y, zoom * 1.3], "-": [x, y, zoom / 1.3]};
      if (moves[event.key]) {
        event.preventDefault();
        this.move(moves[event.key]);
      }
    });
  }
}
