package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// load asks for as long as was said and prints what came of it.
func (c config) load(name string, p *process) {
	for _, at := range []struct{ scheme, listener string }{{"http", "plain"}, {"https", "secure"}} {
		address, listens := p.said[at.listener]
		for _, path := range []string{"/1k", "/1m"} {
			if listens && (c.only == "" || c.only == at.scheme+" "+path) {
				c.loadOne(name+" "+at.scheme+" "+path, p.Process.Pid, at.scheme, address, path)
			}
		}
	}
}

func (c config) loadOne(name string, pid int, scheme, address, path string) {
	before := spentBy(pid)
	times, failed := c.ask(scheme, address, path)
	spent := spentBy(pid) - before
	if len(times) == 0 {
		fmt.Printf("%s: no request was answered\n", name)
		return
	}
	slices.Sort(times)
	fmt.Printf("%s: %.0f requests/s, median %v, p99 %v, %v of processors each, %d clients failed, memory %s\n", name,
		float64(len(times))/float64(c.seconds), times[len(times)/2].Round(10*time.Microsecond), times[len(times)*99/100].Round(10*time.Microsecond),
		(spent / time.Duration(len(times))).Round(time.Microsecond), failed, residentOf(pid))
}

// ask has all clients ask at once. failed counts the clients that gave up: each does at its first error.
func (c config) ask(scheme, address, path string) (times []time.Duration, failed int) {
	end := time.Now().Add(time.Duration(c.seconds) * time.Second)
	var mu sync.Mutex
	var running sync.WaitGroup
	for range c.connections {
		running.Go(func() {
			own, err := askUntil(end, scheme, address, path)
			mu.Lock()
			defer mu.Unlock()
			times = append(times, own...)
			if err != nil {
				failed++
				fmt.Fprintln(os.Stderr, "client:", err)
			}
		})
	}
	running.Wait()
	return times, failed
}

// askUntil asks over one connection, with as little work of its own as can be.
func askUntil(end time.Time, scheme, address, path string) (times []time.Duration, err error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if scheme == "https" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: "bench.example"})
	}
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	answers := bufio.NewReaderSize(conn, 32<<10)
	for time.Now().Before(end) {
		begun := time.Now()
		if _, err := conn.Write(request); err != nil {
			return times, err
		}
		if err := skipAnswer(answers); err != nil {
			return times, err
		}
		times = append(times, time.Since(begun))
	}
	return times, nil
}

// skipAnswer reads one answer that is 200 and says its length.
func skipAnswer(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("the answer is %s", bytes.TrimSpace(status))
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("the answer does not say its length")
	}
	_, err = io.CopyN(io.Discard, r, int64(length))
	return err
}

// spentBy is the time of processors that a process and its children have taken.
func spentBy(pid int) (spent time.Duration) {
	for _, p := range append(childrenOf(pid), pid) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		// The name, in parentheses, may have spaces in it. Times are in hundredths of seconds.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		for _, ticks := range fields[11:13] {
			n, _ := strconv.Atoi(ticks)
			spent += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return spent
}
