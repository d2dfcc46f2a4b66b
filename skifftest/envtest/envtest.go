// Package envtest has the names that suites use of sigs.k8s.io/controller-runtime/pkg/envtest, so that moving a suite to
// Skiff is changing an import. No program is started, and none need be there: the API server is in the process of the suite.
//
// As with controller-runtime's, there are no controllers, no scheduler and no nodes, unless Environment.Options ask for
// them, and what Cluster returns can do all that a cluster of package skifftest can.
package envtest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/skifftest"
)

// Environment is an API server that Start starts and Stop stops, with the definitions and webhooks of a suite.
type Environment struct {
	// ControlPlane has the arguments of the API server.
	ControlPlane ControlPlane
	// Options change what runs, beginning with a server alone. They count for more than arguments.
	Options []skifftest.Option

	// Scheme says which kinds are converted by a webhook; nil: client-go's.
	Scheme *runtime.Scheme
	// Config is set by Start. If there is one with UseExistingCluster, it is used.
	Config *rest.Config
	// KubeConfig is set by Start.
	KubeConfig []byte

	CRDInstallOptions     CRDInstallOptions
	WebhookInstallOptions WebhookInstallOptions
	// ErrorIfCRDPathMissing, CRDs and CRDDirectoryPaths are added to CRDInstallOptions. Start leaves in CRDs what it has
	// installed.
	ErrorIfCRDPathMissing bool
	CRDs                  []*apiextensionsv1.CustomResourceDefinition
	CRDDirectoryPaths     []string

	// UseExistingCluster has the suite run on the cluster of Config, or of the kubeconfig of the environment; nil: if the
	// variable USE_EXISTING_CLUSTER is true.
	UseExistingCluster *bool
	// AttachControlPlaneOutput has the server's errors appear on the standard output, as does the variable
	// KUBEBUILDER_ATTACH_CONTROL_PLANE_OUTPUT.
	AttachControlPlaneOutput bool

	// There are no programs to find, to fetch or to wait for: what follows is there for suites that set it.
	DownloadBinaryAssets                              bool
	DownloadBinaryAssetsVersion                       string
	DownloadBinaryAssetsIndexURL                      string
	BinaryAssetsDirectory                             string
	ControlPlaneStartTimeout, ControlPlaneStopTimeout time.Duration

	test    *test
	cluster *skifftest.Cluster
}

// Start starts the server and installs definitions and webhooks. The environment must be stopped, also after an error.
func (e *Environment) Start() (*rest.Config, error) {
	if err := apiextensionsv1.AddToScheme(scheme.Scheme); err != nil { // as suites have come to expect
		return nil, err
	}
	e.Scheme = cmp.Or(e.Scheme, scheme.Scheme)
	if err := e.reach(); err != nil {
		return nil, err
	}
	if err := e.WebhookInstallOptions.PrepWithoutInstalling(); err != nil {
		return nil, fmt.Errorf("prepare webhooks: %w", err)
	}
	o := &e.CRDInstallOptions
	o.Scheme = cmp.Or(o.Scheme, e.Scheme)
	o.CRDs = append(o.CRDs, e.CRDs...)
	o.Paths = append(o.Paths, e.CRDDirectoryPaths...)
	o.ErrorIfPathMissing = o.ErrorIfPathMissing || e.ErrorIfCRDPathMissing
	o.WebhookOptions = e.WebhookInstallOptions
	var err error
	if e.CRDs, err = InstallCRDs(e.Config, *o); err != nil {
		return e.Config, fmt.Errorf("install definitions: %w", err)
	}
	if err := e.WebhookInstallOptions.Install(e.Config); err != nil {
		return e.Config, fmt.Errorf("install webhooks: %w", err)
	}
	return e.Config, nil
}

// reach starts a server, or finds the one there is.
func (e *Environment) reach() (err error) {
	if !e.existing() {
		return e.begin()
	}
	loading := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil)
	if e.Config == nil {
		if e.Config, err = loading.ClientConfig(); err != nil {
			return fmt.Errorf("find the existing cluster: %w", err)
		}
	}
	if len(e.KubeConfig) == 0 {
		e.KubeConfig, err = kubeconfig(e.Config)
	}
	return err
}

func (e *Environment) existing() bool {
	if e.UseExistingCluster != nil {
		return *e.UseExistingCluster
	}
	return os.Getenv("USE_EXISTING_CLUSTER") == "true"
}

// begin starts a server.
func (e *Environment) begin() error {
	if e.cluster != nil {
		return errors.New("the environment is started already")
	}
	options, err := e.ControlPlane.options()
	if err != nil {
		return err
	}
	options = append(options, e.Options...)
	out := e.ControlPlane.GetAPIServer().Err
	if out == nil && (e.AttachControlPlaneOutput || os.Getenv("KUBEBUILDER_ATTACH_CONTROL_PLANE_OUTPUT") == "true") {
		out = os.Stdout
	}
	e.test = &test{out: out}
	err = e.test.run(func() { e.cluster = skifftest.Start(e.test, options...) })
	if err != nil {
		return err
	}
	e.ControlPlane.cluster, e.ControlPlane.test = e.cluster, e.test
	admin, err := e.AddUser(User{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}, &rest.Config{QPS: -1})
	if err != nil {
		return err
	}
	e.Config = admin.Config()
	e.KubeConfig, err = admin.KubeConfig()
	return err
}

// Cluster is what Start has started; nil if the cluster existed before.
func (e *Environment) Cluster() *skifftest.Cluster { return e.cluster }

// Stop stops what Start has started. Definitions of an existing cluster stay, unless they are to be cleaned up.
func (e *Environment) Stop() error {
	var errs []error
	if e.CRDInstallOptions.CleanUpAfterUse && e.Config != nil {
		errs = append(errs, UninstallCRDs(e.Config, e.CRDInstallOptions))
	}
	errs = append(errs, e.WebhookInstallOptions.Cleanup())
	if e.test != nil {
		errs = append(errs, e.test.end())
		e.test, e.cluster = nil, nil
		e.ControlPlane.test, e.ControlPlane.cluster = nil, nil
	}
	return errors.Join(errs...)
}

// AddUser makes a user, who has the rights that RBAC gives. The rest of base, which may be nil, is kept.
func (e *Environment) AddUser(u User, base *rest.Config) (*AuthenticatedUser, error) {
	return e.ControlPlane.AddUser(u, base)
}
