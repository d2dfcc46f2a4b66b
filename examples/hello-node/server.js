// Answers every request on port 8080 with "Hello World!".
const http = require('node:http');

const server = http.createServer((request, response) => {
  console.log(`${new Date().toISOString()} ${request.method} ${request.url}`);
  response.end('Hello World!');
});
server.listen(8080, () => console.log('listening on port 8080'));

// As process 1 it must end by itself when the pod is deleted.
process.on('SIGTERM', () => server.close(() => process.exit(0)));
