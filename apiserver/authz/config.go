package authz

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/utils/ptr"
)

// The types of authorizers. Their order here is that of messages.
const (
	typeAlwaysAllow = "AlwaysAllow"
	typeAlwaysDeny  = "AlwaysDeny"
	typeNode        = "Node"
	typeRBAC        = "RBAC"
	typeWebhook     = string(apiserverv1.TypeWebhook)
)

var types = []string{typeAlwaysAllow, typeAlwaysDeny, typeNode, typeRBAC, typeWebhook}

// typeABAC is one of Kubernetes that is not served.
const typeABAC = "ABAC"

// Config says who decides, in which order. Its flags are kube-apiserver's.
type Config struct {
	// File is an AuthorizationConfiguration of apiserver.config.k8s.io. It is read again when it changes. Empty: Modes say who decides.
	File string
	// Modes are types of authorizers in the order they are asked; none means Node and RBAC.
	Modes []string
	// Webhook is the authorizer that the mode Webhook stands for.
	Webhook Webhook
	// NodeRules are what every node may do besides what its pods need.
	NodeRules []rbacv1.PolicyRule
	// Look is the time between looks at the file; 0 means ten seconds.
	Look time.Duration
	// Backoff is the pause after a webhook has first failed; 0 means half a second.
	Backoff time.Duration
	// ServerID tells servers apart in metrics.
	ServerID string
	// Metrics is where decisions are counted; nil: nowhere.
	Metrics prometheus.Registerer
	// Log is told what becomes of the file and of webhooks; nil means slog.Default().
	Log *slog.Logger

	legacy func() bool // whether flags besides that of File were given
}

// Webhook is the server that the mode Webhook asks.
type Webhook struct {
	// ConfigFile is a kubeconfig that names the server.
	ConfigFile string
	// Version of SubjectAccessReview that is sent and expected; empty means v1beta1.
	Version string
	// AuthorizedTTL and UnauthorizedTTL are how long answers hold; 0: they are not kept.
	AuthorizedTTL, UnauthorizedTTL time.Duration
}

// AddFlags adds the flags of c, and sets their defaults.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	const mode, webhook = "authorization-mode", "authorization-webhook-"
	flags.StringVar(&c.File, "authorization-config", "", "AuthorizationConfiguration: who decides what users may do; read again when it changes")
	flags.StringSliceVar(&c.Modes, mode, nil, "who decides what users may do, in this order: "+strings.Join(types, ", ")+" (default Node,RBAC)")
	flags.StringVar(&c.Webhook.ConfigFile, webhook+"config-file", "", "kubeconfig of the server that the mode Webhook asks")
	flags.StringVar(&c.Webhook.Version, webhook+"version", defaultVersion, "version of the SubjectAccessReview that it is asked by")
	flags.DurationVar(&c.Webhook.AuthorizedTTL, webhook+"cache-authorized-ttl", 5*time.Minute, "how long it is taken to allow what it has allowed")
	flags.DurationVar(&c.Webhook.UnauthorizedTTL, webhook+"cache-unauthorized-ttl", 30*time.Second, "how long it is taken not to allow what it has not")
	c.legacy = func() bool {
		return slices.ContainsFunc([]string{mode, webhook + "config-file", webhook + "version", webhook + "cache-authorized-ttl", webhook + "cache-unauthorized-ttl"}, flags.Changed)
	}
}

const defaultVersion = "v1beta1"

func (c Config) withDefaults() Config {
	if c.File == "" && len(c.Modes) == 0 {
		c.Modes = []string{typeNode, typeRBAC}
	}
	c.Webhook.Version = cmp.Or(c.Webhook.Version, defaultVersion)
	c.Look, c.Backoff = cmp.Or(c.Look, 10*time.Second), cmp.Or(c.Backoff, 500*time.Millisecond)
	c.Log = cmp.Or(c.Log, slog.Default())
	return c
}

// order is who decides at the start, and the file that says so, if one does.
func (c Config) order() ([]entry, []byte, error) {
	if c.File == "" {
		order, err := c.fromModes()
		return order, nil, err
	}
	if c.legacy != nil && c.legacy() {
		return nil, nil, errors.New("--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined")
	}
	return read(c.File, nil)
}

// fromModes is what the flags say, as a file would.
func (c Config) fromModes() ([]entry, error) {
	var order []entry
	var problems []error
	for _, mode := range c.Modes {
		switch {
		case mode == typeABAC:
			problems = append(problems, errors.New("authorization-mode ABAC is not served by Skiff"))
		case !slices.Contains(types, mode):
			problems = append(problems, fmt.Errorf("authorization-mode %q is not a valid mode", mode))
		case mode == typeWebhook && c.Webhook.ConfigFile == "":
			problems = append(problems, errors.New("authorization-mode Webhook's authorization config file not passed"))
		}
		order = append(order, entry{AuthorizerConfiguration: c.fromMode(mode)})
	}
	if c.Webhook.ConfigFile != "" && !slices.Contains(c.Modes, typeWebhook) {
		problems = append(problems, errors.New("cannot specify --authorization-webhook-config-file without mode Webhook"))
	}
	if len(slices.Compact(slices.Sorted(slices.Values(c.Modes)))) != len(c.Modes) {
		problems = append(problems, fmt.Errorf("authorization-mode %q has mode specified more than once", c.Modes))
	}
	return order, utilerrors.NewAggregate(problems)
}

func (c Config) fromMode(mode string) apiserverv1.AuthorizerConfiguration {
	if mode != typeWebhook {
		return apiserverv1.AuthorizerConfiguration{Type: mode, Name: strings.ToLower(mode)}
	}
	w := c.Webhook
	return apiserverv1.AuthorizerConfiguration{Type: mode, Name: "default", Webhook: &apiserverv1.WebhookConfiguration{
		AuthorizedTTL: metav1.Duration{Duration: w.AuthorizedTTL}, CacheAuthorizedRequests: ptr.To(w.AuthorizedTTL != 0),
		UnauthorizedTTL: metav1.Duration{Duration: w.UnauthorizedTTL}, CacheUnauthorizedRequests: ptr.To(w.UnauthorizedTTL != 0),
		Timeout: metav1.Duration{Duration: 30 * time.Second}, FailurePolicy: apiserverv1.FailurePolicyNoOpinion, SubjectAccessReviewVersion: w.Version,
		ConnectionInfo: apiserverv1.WebhookConnectionInfo{Type: apiserverv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile, KubeConfigFile: &w.ConfigFile},
	}}
}
