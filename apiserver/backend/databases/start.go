package databases

import "fmt"

// Start starts a server of a kind ("postgres", "mariadb", "etcd") for who is no test, and ends it with End. It ends with
// the process at the latest.
func Start(kind string, args ...string) (*Server, error) {
	for _, e := range []engine{postgres{}, mariadb{}, etcd{}} {
		if e.String() == kind {
			return newServer(e, args)
		}
	}
	return nil, fmt.Errorf("no such kind of database: %q", kind)
}

// End ends the server and removes its data.
func (s *Server) End() error { return s.remove() }

// Fresh makes a fresh database on the server and returns its URL. An etcd has
// one.
func (s *Server) Fresh() (url string, err error) {
	url, err = s.engine.database(s, fmt.Sprintf("skiff%d", s.databases.Add(1)))
	if err != nil {
		err = fmt.Errorf("make a database: %w\n%s", err, s.said())
	}
	return url, err
}

// Processes are those of the server that run now, the first one started first.
func (s *Server) Processes() []int { return family(s.process.Pid) }
