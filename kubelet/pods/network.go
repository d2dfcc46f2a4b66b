package pods

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxHostname is what the kernel takes; longer pod names are cut.
const maxHostname = 63

// hostname is the pod's host name and its domain ("" if it has none).
func hostname(pod *v1.Pod, clusterDomain string) (name, domain string, err error) {
	if override := pod.Spec.HostnameOverride; override != nil {
		if problems := validation.IsDNS1123Subdomain(*override); len(problems) > 0 {
			return "", "", fmt.Errorf("pod HostnameOverride %q is not a valid DNS subdomain: %s", *override, strings.Join(problems, ";"))
		}
		name, err := cutHostname(pod.Name, *override)
		return name, "", err
	}
	name = pod.Name
	if pod.Spec.Hostname != "" {
		if problems := validation.IsDNS1123Label(pod.Spec.Hostname); len(problems) > 0 {
			return "", "", fmt.Errorf("pod Hostname %q is not a valid DNS label: %s", pod.Spec.Hostname, strings.Join(problems, ";"))
		}
		name = pod.Spec.Hostname
	}
	if name, err = cutHostname(pod.Name, name); err != nil {
		return "", "", err
	}
	if pod.Spec.Subdomain != "" {
		if problems := validation.IsDNS1123Label(pod.Spec.Subdomain); len(problems) > 0 {
			return "", "", fmt.Errorf("pod Subdomain %q is not a valid DNS label: %s", pod.Spec.Subdomain, strings.Join(problems, ";"))
		}
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return name, domain, nil
}

func cutHostname(podName, name string) (string, error) {
	if len(name) <= maxHostname {
		return name, nil
	}
	// What the cut leaves may not end in a character that host names cannot end in.
	cut := strings.TrimRight(name[:maxHostname], "-.")
	if cut == "" {
		return "", fmt.Errorf("hostname for pod %q was invalid: %q", podName, name)
	}
	return cut, nil
}

// fqdn is the full name if the pod wants it as its host name.
func fqdn(pod *v1.Pod, name, domain string) (string, error) {
	if domain == "" || pod.Spec.SetHostnameAsFQDN == nil || !*pod.Spec.SetHostnameAsFQDN {
		return name, nil
	}
	full := name + "." + domain
	if len(full) > maxHostname+1 {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", full, maxHostname+1, len(full))
	}
	return full, nil
}

// hostsFile is the content of a pod's /etc/hosts. node is the node's own file, the base for pods on the
// host's network.
func hostsFile(pod *v1.Pod, podIPs []string, name, domain string, node []byte) []byte {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(node)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n")
		b.WriteString("127.0.0.1\tlocalhost\n")
		b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\n")
		b.WriteString("fe00::0\tip6-localnet\n")
		b.WriteString("fe00::0\tip6-mcastprefix\n")
		b.WriteString("fe00::1\tip6-allnodes\n")
		b.WriteString("fe00::2\tip6-allrouters\n")
		for _, ip := range podIPs {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, domain, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return b.Bytes()
}

// Limits of resolv.conf, as the API's validation has them.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// DNS is the node's part in the name resolution of pods.
type DNS struct {
	Servers    []string // of the cluster
	Domain     string   // of the cluster
	ResolvConf string   // the node's file; "" means pods with dnsPolicy Default get none of it
}

// config is the pod's resolv.conf. complaint says what had to be left out, "" if nothing.
func (d DNS) config(pod *v1.Pod) (config *cri.DNSConfig, complaint string, err error) {
	host, err := readResolvConf(d.ResolvConf)
	if err != nil {
		return nil, "", err
	}
	config = &cri.DNSConfig{}
	switch d.policy(pod) {
	case v1.DNSNone:
	case v1.DNSClusterFirst:
		config.Servers = slices.Clone(d.Servers)
		config.Searches = d.searches(pod.Namespace, host.Searches)
		config.Options = []string{"ndots:5"}
	default:
		config = host
		if d.ResolvConf == "" {
			// Without a file of the node's, the runtime would hand through its own.
			config.Servers, config.Searches = []string{"127.0.0.1"}, []string{"."}
		}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		config.Servers = unique(append(config.Servers, c.Nameservers...))
		config.Searches = unique(append(config.Searches, c.Searches...))
		config.Options = mergeOptions(config.Options, c.Options)
	}
	complaint = limit(config)
	return config, complaint, nil
}

// policy is the pod's policy as it works out: ClusterFirst means Default on the host's network or when
// the cluster has no DNS.
func (d DNS) policy(pod *v1.Pod) v1.DNSPolicy {
	switch pod.Spec.DNSPolicy {
	case v1.DNSNone, v1.DNSDefault:
		return pod.Spec.DNSPolicy
	case v1.DNSClusterFirst, "":
		if pod.Spec.HostNetwork {
			return v1.DNSDefault
		}
	}
	if len(d.Servers) == 0 {
		return v1.DNSDefault
	}
	return v1.DNSClusterFirst
}

func (d DNS) searches(namespace string, host []string) []string {
	if d.Domain == "" {
		return host
	}
	return unique(append([]string{namespace + ".svc." + d.Domain, "svc." + d.Domain, d.Domain}, host...))
}

// mergeOptions lets the pod's options replace those of the same name.
func mergeOptions(base []string, more []v1.PodDNSConfigOption) []string {
	var names []string
	values := map[string]string{}
	set := func(name, value string) {
		if _, found := values[name]; !found {
			names = append(names, name)
		}
		values[name] = value
	}
	for _, option := range base {
		name, value, _ := strings.Cut(option, ":")
		set(name, value)
	}
	for _, option := range more {
		value := ""
		if option.Value != nil {
			value = *option.Value
		}
		set(option.Name, value)
	}
	var merged []string
	for _, name := range names {
		if values[name] == "" {
			merged = append(merged, name)
		} else {
			merged = append(merged, name+":"+values[name])
		}
	}
	return merged
}

// limit cuts the configuration to what resolvers take and says what it cut.
func limit(c *cri.DNSConfig) string {
	var complaint string
	whole := len(c.Searches)
	c.Searches = c.Searches[:min(whole, maxSearches)]
	for len(strings.Join(c.Searches, " ")) > maxSearchChars {
		c.Searches = c.Searches[:len(c.Searches)-1]
	}
	if len(c.Searches) < whole {
		complaint = "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: " + strings.Join(c.Searches, " ")
	}
	if len(c.Servers) > maxNameservers {
		c.Servers = c.Servers[:maxNameservers]
		complaint = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: " + strings.Join(c.Servers, " ")
	}
	return complaint
}

// readResolvConf reads a resolv.conf(5); the last search line counts. No file is an empty configuration.
func readResolvConf(path string) (*cri.DNSConfig, error) {
	c := &cri.DNSConfig{}
	if path == "" {
		return c, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the node's resolver configuration: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			c.Servers = append(c.Servers, fields[1])
		case "search":
			c.Searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				c.Searches = append(c.Searches, s)
			}
		case "options":
			c.Options = append(c.Options, fields[1:]...)
		}
	}
	return c, lines.Err()
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
