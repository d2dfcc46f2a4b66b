package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// operator is who asks a running server for maintenance.
type operator struct {
	kubeconfig, dataDir string
}

func (o *operator) flags(flags *pflag.FlagSet) {
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the server, and as whom (default: as kubectl does)")
	flags.StringVar(&o.dataDir, "data-dir", "", "as the administrator of the cluster that keeps its data here (default: "+defaultDataDir+", if kubectl knows no cluster)")
}

// stream writes what a server answers at a path to w.
func (o *operator) stream(ctx context.Context, path string, w io.Writer) error {
	config, _, err := o.config()
	if err != nil {
		return err
	}
	return fetch(ctx, config, path, w)
}

// config is how the server is reached, and the namespace that is meant unless another is named.
func (o *operator) config() (config *rest.Config, namespace string, err error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	if o.kubeconfig == "" && o.dataDir != "" {
		rules.ExplicitPath = adminFile(o.dataDir)
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil)
	config, err = loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) && rules.ExplicitPath == "" {
		rules.ExplicitPath = adminFile(defaultDataDir)
		loader = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil)
		config, err = loader.ClientConfig()
	}
	if err != nil {
		return nil, "", err
	}
	config.UserAgent = "skiff/" + version
	namespace, _, err = loader.Namespace()
	return config, namespace, err
}

func fetch(ctx context.Context, config *rest.Config, path string, w io.Writer) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath(path).String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", config.UserAgent)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refusal(response)
	}
	_, err = io.Copy(w, response.Body)
	return err
}

// refusal is what a server says in place of what it was asked for.
func refusal(response *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return err
	}
	var status metav1.Status
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		return errors.New(status.Message)
	}
	return fmt.Errorf("the server answers %s: %s", response.Status, strings.TrimSpace(string(body)))
}

// meter shows how far something has come, if there is a person to see it.
type meter struct {
	out  io.Writer // nil: nobody looks
	unit string    // of what is counted

	mu    sync.Mutex
	what  string
	shown time.Time
}

// newMeter returns a meter that shows what is done on out if that is a terminal.
// It must be ended.
func newMeter(out io.Writer, what string) *meter {
	m := &meter{what: what, unit: "entries", shown: time.Now()}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		m.out = out
	}
	return m
}

const clearLine = "\r\x1b[K"

// tell is told how much is done of how much; 0: that is not known.
func (m *meter) tell(done, total int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.out == nil || time.Since(m.shown) < 100*time.Millisecond {
		return
	}
	m.shown = time.Now()
	if total == 0 {
		fmt.Fprintf(m.out, "%s%s %d %s", clearLine, m.what, done, m.unit)
		return
	}
	fmt.Fprintf(m.out, "%s%s %d of %d %s (%d %%)", clearLine, m.what, done, total, m.unit, 100*done/total)
}

// about says what is counted from now on.
func (m *meter) about(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.what = what
}

// over returns a writer to w that clears the meter's line first.
func (m *meter) over(w io.Writer) io.Writer { return aside{m, w} }

type aside struct {
	m *meter
	w io.Writer
}

func (a aside) Write(p []byte) (int, error) {
	a.m.end()
	return a.w.Write(p)
}

// end clears the line, for what is said next.
func (m *meter) end() {
	if m.out != nil {
		fmt.Fprint(m.out, clearLine)
	}
}
