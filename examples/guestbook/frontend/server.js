// The guestbook's front end: a page, and an API that appends messages at the
// Redis master and reads them from a replica.
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');

// GET_HOSTS_FROM says how to find the services: by DNS, or by the environment
// variables every pod gets for the Services of its namespace.
const byEnvironment = process.env.GET_HOSTS_FROM === 'env';
const master = byEnvironment ? process.env.REDIS_MASTER_SERVICE_HOST : 'redis-master';
const replica = byEnvironment ? process.env.REDIS_SLAVE_SERVICE_HOST : 'redis-slave';
const page = fs.readFileSync(`${__dirname}/index.html`);

// redis sends one command (RESP, https://redis.io/docs/reference/protocol-spec)
// and resolves with the reply: a string, a number, or an array of strings.
function redis(host, ...command) {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port: 6379, timeout: 5000 });
    let received = Buffer.alloc(0);
    socket.on('connect', () => {
      const parts = command.map((part) => `$${Buffer.byteLength(part)}\r\n${part}\r\n`);
      socket.write(`*${command.length}\r\n${parts.join('')}`);
    });
    socket.on('data', (data) => {
      received = Buffer.concat([received, data]);
      const reply = parse(received, 0);
      if (!reply) return; // more is to come
      socket.end();
      reply.error ? reject(new Error(reply.error)) : resolve(reply.value);
    });
    socket.on('timeout', () => socket.destroy(new Error(`${host} does not answer`)));
    socket.on('error', reject);
  });
}

// parse reads one reply at an offset, or returns null if it is not complete.
function parse(data, offset) {
  const end = data.indexOf('\r\n', offset);
  if (end < 0) return null;
  const line = data.toString('utf8', offset + 1, end);
  const next = end + 2;
  switch (String.fromCharCode(data[offset])) {
    case '+': return { value: line, next };
    case '-': return { error: line, next };
    case ':': return { value: Number(line), next };
    case '$': {
      const length = Number(line);
      if (length < 0) return { value: null, next };
      if (data.length < next + length + 2) return null;
      return { value: data.toString('utf8', next, next + length), next: next + length + 2 };
    }
    case '*': {
      const value = [];
      let at = next;
      for (let i = 0; i < Number(line); i++) {
        const item = parse(data, at);
        if (!item) return null;
        value.push(item.value);
        at = item.next;
      }
      return { value, next: at };
    }
  }
  return { error: 'not a Redis reply', next };
}

async function body(request) {
  let text = '';
  for await (const chunk of request) {
    text += chunk;
    if (text.length > 10000) throw new Error('the message is too long');
  }
  return text;
}

async function handle(request, response) {
  if (request.url === '/messages' && request.method === 'POST') {
    await redis(master, 'RPUSH', 'messages', await body(request));
    response.writeHead(204).end();
  } else if (request.url === '/messages') {
    const messages = await redis(replica, 'LRANGE', 'messages', '0', '-1');
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(messages));
  } else if (request.url === '/') {
    response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' }).end(page);
  } else {
    response.writeHead(404).end('not found\n');
  }
}

const server = http.createServer((request, response) => {
  handle(request, response).catch((error) => {
    console.error(`${request.method} ${request.url}: ${error.message}`);
    response.writeHead(502).end(`${error.message}\n`);
  });
});
server.listen(80, () => console.log('listening on port 80'));
process.on('SIGTERM', () => server.close(() => process.exit(0)));
