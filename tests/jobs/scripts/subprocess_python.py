import subprocess
import sys

done = subprocess.run([sys.executable, "-c", "print(1 + 1)"], capture_output=True, text=True, check=True)
print(done.stdout.strip())
print(subprocess.run(["sh", "-c", "exit 4"]).returncode)
child = subprocess.Popen(["sleep", "60"])
child.terminate()
print(child.wait())
