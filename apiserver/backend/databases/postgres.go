package databases

import (
	"fmt"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// postgres is PostgreSQL of the distribution.
type postgres struct{}

// password is that of the user of a database, who is named as it is, owns it,
// and may do nothing else.
const password = "skiff-test"

func (postgres) String() string { return "postgres" }

func (postgres) ports() int { return 1 }

func (postgres) create(s *Server) error {
	program, err := postgresProgram("initdb")
	if err != nil {
		return err
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	return do(plain(program, true, "--pgdata", filepath.Join(s.dir, "data"), "--username", me.Username,
		"--encoding", "UTF8", "--locale", "C.UTF-8", "--auth-local", "peer", "--auth-host", "scram-sha-256", "--no-sync", "--no-instructions"))
}

func (postgres) command(s *Server) (*exec.Cmd, error) {
	program, err := postgresProgram("postgres")
	if err != nil {
		return nil, err
	}
	cmd := plain(program, true, "-D", filepath.Join(s.dir, "data"), "-h", "127.0.0.1", "-p", fmt.Sprint(s.ports[0]),
		"-k", s.dir, "-N", "200")
	// An immediate shutdown, for killed it would leave a piece of shared memory.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	return cmd, nil
}

// quit does not wait for clients to leave.
func (postgres) quit() syscall.Signal { return syscall.SIGINT }

func (postgres) ready(s *Server) error { return psql(s, "SELECT 1") }

func (postgres) database(s *Server, name string) (string, error) {
	// Each is a transaction of its own, as CREATE DATABASE must be.
	for _, statement := range []string{
		fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'`, name, password),
		fmt.Sprintf(`CREATE DATABASE %s OWNER %s`, name, name),
	} {
		if err := psql(s, statement); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("postgres://%s:%s@%s/%s", name, password, address(s.ports[0]), name), nil
}

func psql(s *Server, statement string) error {
	program, err := postgresProgram("psql")
	if err != nil {
		return err
	}
	return do(plain(program, false, "--no-psqlrc", "--host", s.dir, "--port", fmt.Sprint(s.ports[0]), "--dbname", "postgres", "--command", statement))
}

// postgresProgram finds a program where Debian has it, away from PATH and by
// version, of which the newest is taken.
func postgresProgram(name string) (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err == nil && len(found) > 0 {
		return slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }), nil
	}
	return lookUp(name)
}

// version is that in /usr/lib/postgresql/VERSION/bin/name; those before 10 had
// two numbers and count as 0.
func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}
