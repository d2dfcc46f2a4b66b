package databases

import (
	"fmt"
	"os/exec"
	"syscall"
)

// Instance is a server that belongs to no test: what goes wrong is returned.
type Instance struct{ server *Server }

// kinds of servers by the schemes of their URLs.
var kinds = map[string]engine{"postgres": postgres{}, "mysql": mariadb{}, "etcd": etcd{}}

// NewInstance makes a server for URLs of a scheme, which is not started and must
// be removed. through, if not nil, starts its program whenever it is started.
func NewInstance(scheme string, through func(*exec.Cmd) error) (*Instance, error) {
	e := kinds[scheme]
	if e == nil {
		return nil, fmt.Errorf("there is no database for %s://", scheme)
	}
	s, err := makeServer(e, nil)
	if err != nil {
		return nil, err
	}
	s.through = through
	return &Instance{s}, nil
}

// Folder is where all its files are.
func (i *Instance) Folder() string { return i.server.dir }

// Start starts it, and returns when it answers.
func (i *Instance) Start() error { return i.server.start() }

// Wait returns when it answers; an error says that it has ended.
func (i *Instance) Wait() error { return i.server.wait() }

// Database makes a fresh database and returns its URL. An etcd has one.
func (i *Instance) Database() (url string, err error) { return i.server.fresh() }

// Processes are those of it that run now, the first one started first.
func (i *Instance) Processes() []int { return family(i.server.process.Pid) }

// Kill ends all of its processes with SIGKILL.
func (i *Instance) Kill() error { return i.server.kill() }

// Quit ends it as its operator would.
func (i *Instance) Quit() error {
	_ = i.server.process.Signal(i.server.engine.quit()) // it may have ended
	return i.server.ending()
}

// Signal sends all of its processes a signal.
func (i *Instance) Signal(s syscall.Signal) error { return i.server.signal(s) }

// Ended is closed when what was started last has ended.
func (i *Instance) Ended() <-chan struct{} { return i.server.ended }

// Remove ends it and forgets its data.
func (i *Instance) Remove() error {
	if i.server.process == nil {
		return i.server.forget()
	}
	return i.server.remove()
}

// Said is the end of what it had to say.
func (i *Instance) Said() string { return i.server.said() }
