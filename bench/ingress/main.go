// Program ingress puts the same load on Skiff's ingress and on nginx, one after the other: answers of 1 KB and 1 MB, with
// TLS and without, by clients that keep their connections, on the loopback. It also says what many rules cost, and how
// long a change of one takes until it is in effect.
//
//	go run ./bench/ingress [-seconds 10] [-connections 64] [-rules 10000] [-nginx PROGRAM] [-only LOAD] [-profile FILE]
//
// Backend, contender and clients are processes of their own. Skiff's has an API server in it, as in a cluster. All share
// the processors, so that requests per second say as much of clients and backend as of the contender: the time of
// processors that a contender takes for a request is its own alone.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type config struct {
	role        string
	seconds     int
	connections int
	rules       int
	nginx       string
	dir         string // the contender's
	backend     string // address
	only        string // the one load that is put on; empty: all
	profile     string // file for the profile of Skiff under load; empty: none
}

func main() {
	var c config
	flag.StringVar(&c.role, "role", "", "what this process is; empty: the one that starts the others")
	flag.IntVar(&c.seconds, "seconds", 10, "how long each load lasts")
	flag.IntVar(&c.connections, "connections", 64, "how many clients ask at once")
	flag.IntVar(&c.rules, "rules", 10000, "how many Ingresses there are besides the one that is asked")
	flag.StringVar(&c.nginx, "nginx", "nginx", "the other contender")
	flag.StringVar(&c.only, "only", "", "put only this load on, as 'https /1k'")
	flag.StringVar(&c.profile, "profile", "", "file for a CPU profile of Skiff under load")
	flag.StringVar(&c.dir, "dir", "", "")
	flag.StringVar(&c.backend, "backend", "", "")
	flag.Parse()
	run := map[string]func(config) error{"": all, "backend": serveBackend, "skiff": serveSkiff}[c.role]
	if run == nil {
		log.Fatalf("there is no role %q", c.role)
	}
	if err := run(c); err != nil {
		log.Fatal(err)
	}
}

// all starts everything and measures.
func all(c config) (err error) {
	if c.dir, err = os.MkdirTemp("", "skiff-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	backend, err := start(os.Args[0], "-role", "backend")
	if err != nil {
		return err
	}
	defer backend.stop()
	c.backend = backend.said["plain"]
	if err := writePair(c.dir); err != nil {
		return err
	}
	skiff, err := start(os.Args[0], "-role", "skiff", "-dir", c.dir, "-backend", c.backend, "-rules", fmt.Sprint(c.rules), "-profile", c.profile)
	if err != nil {
		return err
	}
	for _, what := range figures {
		fmt.Printf("%d rules: %s: %s\n", c.rules, what, skiff.said[what])
	}
	c.load("directly", backend)
	c.load("skiff", skiff)
	skiff.stop()
	program, err := exec.LookPath(c.nginx)
	if err != nil {
		return fmt.Errorf("%w: install nginx, or name it with -nginx", err)
	}
	nginx, err := c.startNginx(program)
	if err != nil {
		return err
	}
	defer nginx.stop()
	c.load("nginx", nginx)
	return nil
}

// process is one that was started, and what it said at the start: lines "name: value" until "ready".
type process struct {
	*exec.Cmd
	said map[string]string
}

func start(program string, args ...string) (*process, error) {
	p := &process{Cmd: exec.Command(program, args...), said: make(map[string]string)}
	p.Stderr = os.Stderr
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := p.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.Start(); err != nil {
		return nil, err
	}
	buffer := make([]byte, 4096)
	for text := ""; ; {
		n, err := out.Read(buffer)
		text += string(buffer[:n])
		if strings.Contains(text, "ready: ") && strings.HasSuffix(text, "\n") {
			for line := range strings.Lines(text) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				p.said[name] = value
			}
			return p, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
		}
	}
}

func (p *process) stop() {
	_ = p.Process.Signal(syscall.SIGTERM)
	_ = p.Wait()
}

// Where nginx listens.
const (
	nginxPlain  = "127.0.0.1:18080"
	nginxSecure = "127.0.0.1:18443"
)

const nginxConfig = `
worker_processes auto;
daemon off;
master_process on;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	upstream backend { server %[2]s; keepalive 320; }
	server {
		listen %[3]s;
		listen %[4]s ssl;
		ssl_certificate %[1]s/tls.crt;
		ssl_certificate_key %[1]s/tls.key;
		keepalive_requests 1000000;
		location / {
			proxy_pass http://backend;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Real-IP $remote_addr;
			proxy_set_header X-Forwarded-For $remote_addr;
		}
	}
}
`

func (c config) startNginx(program string) (*process, error) {
	file := filepath.Join(c.dir, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, c.dir, c.backend, nginxPlain, nginxSecure), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-c", file, "-p", c.dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{Cmd: cmd, said: map[string]string{"plain": nginxPlain, "secure": nginxSecure}}
	for range 100 {
		if conn, err := tls.Dial("tcp", nginxSecure, &tls.Config{InsecureSkipVerify: true}); err == nil {
			return p, conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, fmt.Errorf("%s does not answer", program)
}

// residentOf is the resident memory of a process and its children.
func residentOf(pid int) string {
	total := 0
	for _, p := range append(childrenOf(pid), pid) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil {
			continue
		}
		var kB int
		if _, rest, ok := strings.Cut(string(data), "VmRSS:"); ok {
			_, _ = fmt.Sscan(rest, &kB)
		}
		total += kB
	}
	return fmt.Sprintf("%d MB", total/1024)
}

func childrenOf(pid int) (children []int) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	for _, field := range strings.Fields(string(data)) {
		var child int
		if _, err := fmt.Sscan(field, &child); err == nil {
			children = append(children, child)
		}
	}
	return children
}
