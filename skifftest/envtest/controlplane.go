package envtest

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/skifftest"
)

// ControlPlane is what runs.
type ControlPlane struct {
	APIServer *APIServer
	// KubectlPath is the kubectl of users; empty: the one in PATH.
	KubectlPath string

	test    *test
	cluster *skifftest.Cluster
}

// APIServer has the arguments of the API server.
type APIServer struct {
	// Err gets the log of the server; nil: nobody reads it, unless Environment.AttachControlPlaneOutput has it on the standard
	// output. Out gets nothing, as the log is all that a server says.
	Out, Err io.Writer

	arguments Arguments
}

// Configure returns the arguments, to change them before Start.
func (s *APIServer) Configure() *Arguments { return &s.arguments }

// GetAPIServer returns the API server, and makes it if need be.
func (p *ControlPlane) GetAPIServer() *APIServer {
	if p.APIServer == nil {
		p.APIServer = &APIServer{}
	}
	return p.APIServer
}

// AddUser makes a user, once the server is started. The rest of base, which may be nil, is kept.
func (p *ControlPlane) AddUser(u User, base *rest.Config) (*AuthenticatedUser, error) {
	if p.cluster == nil {
		return nil, errors.New("users are of a server that the environment has started: it has not")
	}
	var config []byte
	if err := p.test.run(func() { config = p.cluster.KubeconfigOf(u.Name, u.Groups...) }); err != nil {
		return nil, err
	}
	return newUser(config, base, p.KubectlPath)
}

// Arguments are flags of kube-apiserver. Those that say which admission plugins are on and off are taken; with any other
// Start fails, and the suite needs skiff envtest-assets.
type Arguments struct{ changed map[string]argument }

type argument struct {
	values  []string
	replace bool // what there is without it
}

// EmptyArguments are those of a server that nobody has configured.
func EmptyArguments() *Arguments { return &Arguments{} }

// Append adds values to those that an argument has.
func (a *Arguments) Append(key string, values ...string) *Arguments {
	now := a.changed[key]
	return a.put(key, argument{slices.Concat(now.values, values), now.replace})
}

// AppendNoDefaults adds values to those that were given, and leaves the defaults out.
func (a *Arguments) AppendNoDefaults(key string, values ...string) *Arguments {
	return a.put(key, argument{slices.Concat(a.changed[key].values, values), true})
}

// Set gives an argument these values, and no others.
func (a *Arguments) Set(key string, values ...string) *Arguments {
	return a.put(key, argument{slices.Clone(values), true})
}

// Disable leaves an argument out, its defaults too.
func (a *Arguments) Disable(key string) *Arguments { return a.put(key, argument{nil, true}) }

func (a *Arguments) put(key string, to argument) *Arguments {
	if a.changed == nil {
		a.changed = make(map[string]argument)
	}
	a.changed[key] = to
	return a
}

// of are the values of an argument that has these without being changed.
func (a *Arguments) of(key string, defaults ...string) []string {
	now, ok := a.changed[key]
	if ok && now.replace {
		return now.values
	}
	return slices.Concat(defaults, now.values)
}

const (
	enabled  = "enable-admission-plugins"
	disabled = "disable-admission-plugins"
)

// options are those of a server with the arguments, and of nothing beside it. Without controllers no ServiceAccount is made,
// so that its admission plugin would refuse all pods.
func (p *ControlPlane) options() ([]skifftest.Option, error) {
	a := p.GetAPIServer().Configure()
	for _, key := range slices.Sorted(maps.Keys(a.changed)) {
		if key != enabled && key != disabled && len(a.of(key)) > 0 {
			return nil, fmt.Errorf("the argument %s of the API server is not known here: KUBEBUILDER_ASSETS made by skiff envtest-assets may take it", key)
		}
	}
	return []skifftest.Option{
		skifftest.WithoutControllers(), skifftest.WithoutScheduler(), skifftest.Nodes(0),
		skifftest.WithAdmission(a.of(enabled)...), skifftest.WithoutAdmission(a.of(disabled, "ServiceAccount")...),
	}, nil
}
