// Package debug serves what those who run a server need to know of it: its flags (/flagz), what it is (/statusz), profiles
// (/debug/pprof/) and how much it logs (/debug/flags/v). Who may read that is the authorizer's matter, as with any path.
package debug

import (
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strconv"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// Config of Register. Its flags are kube-apiserver's.
type Config struct {
	// Profiling is whether /debug/pprof/ and /debug/flags are served.
	Profiling bool
	// Level is how much is logged: that of slog for klog's verbosity v is -v. nil: only that of klog is set.
	Level *slog.LevelVar
	// Flags are shown by /flagz; nil: it is not served.
	Flags *pflag.FlagSet
	// NoStatus leaves /statusz out.
	NoStatus bool
	// Paths lists the paths of the server, for /statusz.
	Paths func() []string
}

// AddFlags adds the flags of c but that of the level, and sets their defaults. It keeps flags, to show all of them.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	c.Flags, c.Level = flags, new(slog.LevelVar)
	flags.BoolVar(&c.Profiling, "profiling", true, "serve profiles at /debug/pprof/, and the log level at /debug/flags/v")
}

// AddVerbosity adds the flag of the level.
func (c *Config) AddVerbosity(flags *pflag.FlagSet) {
	flags.VarP(verbosity{c.Level}, "v", "v", "how much is logged: from 4 on also what helps to find faults")
}

// verbosity is a level of slog as klog's, which is its negative.
type verbosity struct{ level *slog.LevelVar }

func (v verbosity) Type() string { return "Level" }
func (v verbosity) String() string {
	if v.level == nil {
		return "0"
	}
	return strconv.Itoa(-int(v.level.Level()))
}

// Set sets the level of klog too.
func (v verbosity) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return err
	}
	if v.level != nil {
		v.level.Set(-slog.Level(n))
	}
	var libraries klog.Level
	return libraries.Set(text)
}

// Listed are the paths that stand in the index of the server.
func (c Config) Listed() []string {
	var paths []string
	if c.Flags != nil {
		paths = append(paths, "/flagz")
	}
	if !c.NoStatus {
		paths = append(paths, "/statusz")
	}
	return paths
}

// Register adds the pages to a mux.
func Register(mux *http.ServeMux, c Config) {
	if c.Flags != nil {
		mux.HandleFunc("/flagz", page("Flagz", c.flagz))
	}
	if !c.NoStatus {
		mux.HandleFunc("/statusz", page("Statusz", c.statusz))
	}
	if !c.Profiling {
		return
	}
	mux.Handle("/debug/pprof", http.RedirectHandler("/debug/pprof/", http.StatusFound))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/flags", index)
	mux.HandleFunc("/debug/flags/", index)
	mux.HandleFunc("/debug/flags/v", c.setVerbosity)
}

// index lists the one flag that can be set.
func index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, "<html>\n<head>\n<title>/debug/flags/</title>\n</head>\n<body>\n/debug/flags/<br>\n<br>\nflags:<br>\n<table>\n<tr>%s<br>\n</table>\n<br>\n"+
		"full flags configurable<br>\n</body>\n</html>\n", html.EscapeString("v"))
}

// mostDigits is more than a verbosity has.
const mostDigits = 100

func (c Config) setVerbosity(w http.ResponseWriter, r *http.Request) {
	say := func(code int, text string) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(code)
		fmt.Fprintln(w, text)
	}
	if r.Method != http.MethodPut {
		say(http.StatusNotAcceptable, "unsupported http method")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostDigits))
	if err != nil {
		say(http.StatusBadRequest, "error reading request body: "+err.Error())
		return
	}
	if err := (verbosity{c.Level}).Set(string(body)); err != nil {
		if number := new(strconv.NumError); errors.As(err, &number) {
			err = number
		}
		say(http.StatusBadRequest, err.Error())
		return
	}
	say(http.StatusOK, "successfully set klog.logging.verbosity to "+string(body))
}
