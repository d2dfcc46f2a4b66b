package databases

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/guard"
)

// engine is what a kind of database does in its own way.
type engine interface {
	fmt.Stringer
	// ports is how many ports a server needs.
	ports() int
	// create fills the empty folder of s with a database system.
	create(s *Server) error
	// command is the server in the foreground.
	command(s *Server) (*exec.Cmd, error)
	// ready is nil once the server takes requests.
	ready(s *Server) error
	// quit is the signal that ends a server in good order.
	quit() syscall.Signal
	// database makes a database and returns its URL.
	database(s *Server, name string) (url string, err error)
}

// Server is a database server. Between Kill and Start, and between Stop and
// Continue, it answers nothing; its addresses stay the same.
type Server struct {
	engine    engine
	args      []string
	dir       string // with its data, socket and log
	ports     []int
	databases atomic.Int64
	through   func(*exec.Cmd) error // starts its program; nil: as it is

	process *os.Process
	death   syscall.Signal // ends it for good
	ended   chan struct{}  // closed when process has ended
}

// starting is how long a server may take until it answers: it recovers from
// being killed, on a machine that has other work.
const starting = 2 * time.Minute

func newServer(e engine, args []string) (*Server, error) {
	s, err := makeServer(e, args)
	if err != nil {
		return nil, err
	}
	return s, s.start()
}

// makeServer makes a server that is not started.
func makeServer(e engine, args []string) (_ *Server, err error) {
	folder, err := home()
	if err != nil {
		return nil, err
	}
	s := &Server{engine: e, args: args}
	if s.dir, err = os.MkdirTemp(folder.path, e.String()+"-"); err != nil {
		return nil, err
	}
	if s.ports, err = folder.takePorts(e.ports()); err != nil {
		return nil, err
	}
	if _, ok := servant(); ok {
		if err := os.Chown(s.dir, nobody, nobody); err != nil {
			return nil, err
		}
	}
	if err := e.create(s); err != nil {
		return nil, fmt.Errorf("make a %s database: %w", e, err)
	}
	return s, nil
}

// PID is that of the server.
func (s *Server) PID() int { return s.process.Pid }

// Kill ends the server and all of its processes with SIGKILL.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if err := s.kill(); err != nil {
		t.Fatalf("kill %s: %v", s.engine, err)
	}
}

// Start starts a server that was killed, on the same data and ports, and returns
// when it answers.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

// Stop halts the server with SIGSTOP: connections stay, and nobody answers.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.signal(syscall.SIGSTOP); err != nil {
		t.Fatalf("stop %s: %v", s.engine, err)
	}
}

// Continue lets a stopped server go on.
func (s *Server) Continue(t testing.TB) {
	t.Helper()
	if err := s.signal(syscall.SIGCONT); err != nil {
		t.Fatalf("continue %s: %v", s.engine, err)
	}
}

// signal reaches all processes of the server.
func (s *Server) signal(signal syscall.Signal) error {
	for _, pid := range family(s.process.Pid) {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

func (s *Server) start() error {
	cmd, err := s.engine.command(s)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Args = append(cmd.Args, s.args...)
	cmd.Stdout, cmd.Stderr = log, log
	begin := cmd.Start
	if s.through != nil {
		begin = func() error { return s.through(cmd) }
	}
	if err := spawn(begin); err != nil {
		return fmt.Errorf("start %s: %w", s.engine, err)
	}
	ended := make(chan struct{})
	s.process, s.death, s.ended = cmd.Process, cmd.SysProcAttr.Pdeathsig, ended
	guard.Go("database", func() {
		defer close(ended)
		_ = cmd.Wait() // it is ended by a signal, or the log says why it ended
	})
	return s.wait()
}

// wait returns when the server answers.
func (s *Server) wait() error {
	for deadline := time.Now().Add(starting); ; {
		err := s.engine.ready(s)
		if failed := (*exec.Error)(nil); err == nil || errors.As(err, &failed) {
			return err
		}
		select {
		case <-s.ended:
			return fmt.Errorf("%s ended at once:\n%s", s.engine, s.said())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w\n%s", s.engine, err, s.said())
		}
	}
}

func (s *Server) kill() error {
	for _, pid := range family(s.process.Pid) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		defer untilGone(pid)
	}
	<-s.ended
	return nil
}

// remove ends the server and forgets its data.
func (s *Server) remove() error {
	return errors.Join(s.end(), s.forget())
}

func (s *Server) forget() error {
	if folder, err := home(); err == nil {
		folder.givePorts(s.ports)
	}
	return os.RemoveAll(s.dir)
}

// ending is how long a server may take to end when it is told to.
const ending = 10 * time.Second

// end ends the server, which may have been stopped or killed.
func (s *Server) end() error {
	_ = s.process.Signal(s.death)
	_ = s.process.Signal(syscall.SIGCONT)
	return s.ending()
}

// ending waits for the end of a server that was told to, and ends it if it
// takes too long.
func (s *Server) ending() error {
	select {
	case <-s.ended:
	case <-time.After(ending):
	}
	return s.kill()
}

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

// said is the end of what the server had to say.
func (s *Server) said() string {
	data, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// lookUp finds a program of the distribution; servers are not in everybody's
// PATH.
func lookUp(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	if path, err = exec.LookPath(filepath.Join("/usr/sbin", program)); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s is not installed: run make database-packages, as make test does", program)
}

// do runs a program of the database to its end.
func do(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out)
	}
	return nil
}

// nobody is the user and the group that servers run as which refuse to be root.
const nobody = 65534

// servant is whom such a server runs as; ok is false if the test itself is not
// root, and the server runs as the test does.
func servant() (c *syscall.Credential, ok bool) {
	if os.Getuid() != 0 {
		return nil, false
	}
	return &syscall.Credential{Uid: nobody, Gid: nobody}, true
}

// plain is a command without the environment of the test, which may say much to
// a database, as one who is not root if asked.
func plain(program string, unprivileged bool, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if unprivileged {
		cmd.SysProcAttr.Credential, _ = servant()
	}
	return cmd
}

// spawn calls begin, which starts a program, on a thread that lives as long as the process. Linux sends
// the signal that ends a child (Pdeathsig) when the thread that started it ends, and
// Go ends threads as it likes.
func spawn(begin func() error) error {
	spawnOnce.Do(func() {
		guard.Go("databases", func() {
			runtime.LockOSThread()
			for start := range spawns {
				start()
			}
		})
	})
	result := make(chan error)
	spawns <- func() { result <- begin() }
	return <-result
}

var (
	spawnOnce sync.Once
	spawns    = make(chan func())
)
