package env

import (
	"net"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// serviceVars are the variables that name services: those of the pod's namespace unless
// enableServiceLinks is false, and default/kubernetes always.
func serviceVars(services []*v1.Service, pod *v1.Pod) map[string]string {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	vars := map[string]string{}
	for _, s := range services {
		// The namespace's own service called kubernetes wins over the API server's.
		if s.Namespace == v1.NamespaceDefault && s.Name == "kubernetes" {
			addService(vars, s)
		}
	}
	for _, s := range services {
		if links && s.Namespace == pod.Namespace {
			addService(vars, s)
		}
	}
	return vars
}

// addService adds the variables of one service, in the manner of Docker links.
func addService(vars map[string]string, s *v1.Service) {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == v1.ClusterIPNone || s.Spec.Type == v1.ServiceTypeExternalName || len(s.Spec.Ports) == 0 {
		return
	}
	prefix := variable(s.Name)
	vars[prefix+"_SERVICE_HOST"] = ip
	vars[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, port := range s.Spec.Ports {
		number := strconv.Itoa(int(port.Port))
		if port.Name != "" {
			vars[prefix+"_SERVICE_PORT_"+variable(port.Name)] = number
		}
		protocol := string(port.Protocol)
		if protocol == "" {
			protocol = string(v1.ProtocolTCP)
		}
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, number)
		if i == 0 {
			vars[prefix+"_PORT"] = url
		}
		one := prefix + "_PORT_" + number + "_" + strings.ToUpper(protocol)
		vars[one] = url
		vars[one+"_PROTO"] = strings.ToLower(protocol)
		vars[one+"_PORT"] = number
		vars[one+"_ADDR"] = ip
	}
}

func variable(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
