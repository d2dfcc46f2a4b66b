package databases_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
)

// client writes and reads one value over the URL of a database.
type client struct {
	name  string // the scheme of its URLs
	start func(testing.TB, ...string) *databases.Server
	write func(ctx context.Context, url, value string) error
	read  func(ctx context.Context, url string) (string, error)
	root  bool // it may run as root
}

var clients = []client{
	{name: "postgres", start: databases.NewPostgres,
		write: func(ctx context.Context, url, value string) error {
			_, err := psql(ctx, url, "CREATE TABLE IF NOT EXISTS kept (v text)", "INSERT INTO kept VALUES ('"+value+"')")
			return err
		},
		read: func(ctx context.Context, url string) (string, error) {
			return psql(ctx, url, "SELECT max(v) FROM kept")
		},
	},
	{name: "mysql", start: databases.NewMariaDB,
		write: func(ctx context.Context, url, value string) error {
			_, err := mariadb(ctx, url, "CREATE TABLE IF NOT EXISTS kept (v text); INSERT INTO kept VALUES ('"+value+"')")
			return err
		},
		read: func(ctx context.Context, url string) (string, error) {
			return mariadb(ctx, url, "SELECT max(v) FROM kept")
		},
	},
	{name: "etcd", start: databases.NewEtcd, root: true,
		write: func(ctx context.Context, url, value string) error {
			_, err := etcd(ctx, url, "put", fmt.Sprintf(`{"key": "a2VwdA==", "value": %q}`, base64.StdEncoding.EncodeToString([]byte(value))))
			return err
		},
		read: func(ctx context.Context, url string) (string, error) {
			answer, err := etcd(ctx, url, "range", `{"key": "a2VwdA=="}`)
			_, after, _ := strings.Cut(answer, `"value":"`)
			encoded, _, _ := strings.Cut(after, `"`)
			value, _ := base64.StdEncoding.DecodeString(encoded)
			return string(value), err
		},
	},
}

// A server keeps what it acknowledged when it is killed, and its address; while
// it is stopped it answers nobody.
func TestFaults(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			s := c.start(t)
			if uid := owner(t, s.PID()); uid == 0 && !c.root {
				t.Error("the server runs as root")
			}
			address := s.Database(t)
			if err := c.write(t.Context(), address, "1"); err != nil {
				t.Fatal(err)
			}
			before := s.PID()
			s.Kill(t)
			if _, err := c.read(t.Context(), address); err == nil {
				t.Error("a killed server answered")
			}
			s.Start(t)
			if s.PID() == before {
				t.Error("the server was not started anew")
			}
			if value, err := c.read(t.Context(), address); err != nil || value != "1" {
				t.Errorf("after a kill, the value is %q, %v", value, err)
			}
			s.Stop(t)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if value, err := c.read(ctx, address); err == nil {
				t.Errorf("a stopped server answered %q", value)
			}
			s.Continue(t)
			if value, err := c.read(t.Context(), address); err != nil || value != "1" {
				t.Errorf("after a stop, the value is %q, %v", value, err)
			}
		})
	}
}

// Databases of one server know nothing of each other.
func TestFresh(t *testing.T) {
	for i, fresh := range []func(testing.TB) string{databases.Postgres, databases.MariaDB, databases.Etcd} {
		c := clients[i]
		t.Run(c.name, func(t *testing.T) {
			one, other := fresh(t), fresh(t)
			if err := c.write(t.Context(), one, "1"); err != nil {
				t.Fatal(err)
			}
			if value, err := c.read(t.Context(), other); value != "" {
				t.Errorf("another database has the value %q, %v", value, err)
			}
		})
	}
}

// A server of a program that is no test is gone when it was removed, with all of its processes.
func TestInstance(t *testing.T) {
	for _, scheme := range []string{"postgres", "mysql", "etcd"} {
		c := clients[slices.IndexFunc(clients, func(c client) bool { return c.name == scheme })]
		t.Run(scheme, func(t *testing.T) {
			i, err := databases.NewInstance(scheme, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := i.Start(); err != nil {
				t.Fatal(err, i.Remove())
			}
			address, err := i.Database()
			if err == nil {
				err = c.write(t.Context(), address, "1")
			}
			if err != nil {
				t.Error(err)
			}
			pids := i.Processes()
			if len(pids) == 0 {
				t.Error("it has no processes")
			}
			if err := i.Remove(); err != nil {
				t.Error(err)
			}
			for _, pid := range pids {
				if runs(pid) {
					t.Errorf("process %d is still there", pid)
				}
			}
			if _, err := os.Stat(i.Folder()); err == nil {
				t.Errorf("%s is still there", i.Folder())
			}
		})
	}
	if _, err := databases.NewInstance("paper", nil); err == nil {
		t.Error("an unknown kind of database was made")
	}
}

const childVariable = "SKIFF_DATABASES_TEST_CHILD"

// hold starts all servers, says which they are, and waits to be killed.
func hold(t *testing.T) {
	for _, c := range clients {
		fmt.Println("pid", c.start(t).PID())
	}
	select {}
}

// Databases end with the process that started them, however it ends.
func TestEndWithProcess(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		hold(t)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^TestEndWithProcess$")
	cmd.Env = append(os.Environ(), childVariable+"=yes")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for lines := bufio.NewScanner(out); len(pids) < len(clients) && lines.Scan(); {
		var pid int
		if _, err := fmt.Sscanf(lines.Text(), "pid %d", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if len(pids) < len(clients) {
		t.Fatalf("the child started %d servers, want %d", len(pids), len(clients))
	}
	deadline := time.Now().Add(time.Minute)
	for _, pid := range pids {
		for runs(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d outlives the test that started it", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// runs is false for a zombie, which has ended.
func runs(pid int) bool {
	state, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && !bytes.Contains(state, []byte("State:\tZ"))
}

func owner(t *testing.T, pid int) uint32 {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

func psql(ctx context.Context, address string, statements ...string) (string, error) {
	args := []string{"--no-psqlrc", "--tuples-only", "--no-align", address}
	for _, s := range statements {
		args = append(args, "--command", s)
	}
	return output(exec.CommandContext(ctx, "psql", args...))
}

func mariadb(ctx context.Context, address, statements string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	password, _ := u.User.Password()
	return output(exec.CommandContext(ctx, "mariadb", "--no-defaults", "--skip-column-names", "--batch", "--protocol=tcp", "--host", u.Hostname(), "--port", u.Port(),
		"--user", u.User.Username(), "--password="+password, "--database", strings.TrimPrefix(u.Path, "/"), "--execute", statements))
}

func etcd(ctx context.Context, address, verb, body string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.Replace(address, "etcd://", "http://", 1)+"/v3/kv/"+verb, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, answer)
	}
	return string(answer), err
}

func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}
