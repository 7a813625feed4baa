#!/usr/bin/env node
// A client ends its side and destroys the socket as soon as that is done, without waiting for the answer. Prints
// what the programs in Python do (common.py).
const { fork } = require('child_process');
const net = require('net');
const [name, role] = process.argv.slice(2);

function serve() {
  process.title = `${name}-server`;
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    socket.resume();
    socket.on('end', () => {
      socket.write('answer');
      setTimeout(() => socket.end('more'), 2);
    });
  });
  server.listen(80, '127.0.0.1', () => process.send('ready'));
}

function request() {
  const socket = net.connect(80, '127.0.0.1', () => socket.end('request', () => socket.destroy()));
  socket.on('error', () => {});
}

if (role === 'server') {
  serve();
} else {
  process.title = `${name}-client`;
  fork(__filename, [name, 'server']).on('message', () => {
    console.log(`start ${Number(process.hrtime.bigint()) / 1e9}`);
    setInterval(request, 10);
  });
}
