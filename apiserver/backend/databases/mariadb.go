package databases

import (
	"fmt"
	"os/exec"
	"os/user"
	"path/filepath"
	"syscall"
)

// mariadb is MariaDB of the distribution.
type mariadb struct{}

func (mariadb) String() string { return "mariadb" }

func (mariadb) ports() int { return 1 }

func (mariadb) create(s *Server) error {
	program, err := lookUp("mariadb-install-db")
	if err != nil {
		return err
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	return do(plain(program, true, "--no-defaults", "--datadir="+filepath.Join(s.dir, "data"), "--skip-test-db", "--skip-name-resolve",
		"--auth-root-authentication-method=socket", "--auth-root-socket-user="+me.Username))
}

func (mariadb) command(s *Server) (*exec.Cmd, error) {
	program, err := lookUp("mariadbd")
	if err != nil {
		return nil, err
	}
	return plain(program, true, "--no-defaults", "--datadir="+filepath.Join(s.dir, "data"), "--socket="+filepath.Join(s.dir, "socket"),
		"--pid-file="+filepath.Join(s.dir, "pid"), "--bind-address=127.0.0.1", fmt.Sprintf("--port=%d", s.ports[0]), "--skip-name-resolve",
		"--max-connections=200"), nil
}

func (mariadb) quit() syscall.Signal { return syscall.SIGTERM }

func (mariadb) ready(s *Server) error { return mariadbClient(s, "SELECT 1") }

func (mariadb) database(s *Server, name string) (string, error) {
	err := mariadbClient(s, fmt.Sprintf("CREATE DATABASE %s; CREATE USER %s@'%%' IDENTIFIED BY '%s'; GRANT ALL ON %s.* TO %s@'%%'",
		name, name, password, name, name))
	return fmt.Sprintf("mysql://%s:%s@%s/%s", name, password, address(s.ports[0]), name), err
}

func mariadbClient(s *Server, statements string) error {
	program, err := lookUp("mariadb")
	if err != nil {
		return err
	}
	return do(plain(program, false, "--no-defaults", "--socket="+filepath.Join(s.dir, "socket"), "--execute", statements))
}
